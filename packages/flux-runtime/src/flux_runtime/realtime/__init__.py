    from .arguments import add_realtime_options as add_realtime_options
    from .arguments import realtime_options_from as realtime_options_from
    from .driver_process import DriverCancelled as DriverCancelled
    from .driver_process import DriverEvent as DriverEvent
    from .driver_process import DriverProcess as DriverProcess
    from .driver_process import Simulation as Simulation
    from .options import RealtimeOptions as RealtimeOptions
    from .settings import RealtimeSettings as RealtimeSettings
    from .settings import realtime_settings as realtime_settings

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "arguments": ("add_realtime_options", "realtime_options_from"),
        "driver_process": ("DriverCancelled", "DriverEvent", "DriverProcess", "Simulation"),
        "options": ("RealtimeOptions",),
        "settings": ("RealtimeSettings", "realtime_settings"),
    },
)

/* The driver's end of the memory that a robot driver's process shares with the policy's: a C
 * interface, for any language that can call one. The library needs libc only.
 *
 * Times are nanoseconds on CLOCK_MONOTONIC. Results are FLUX_DRIVER_OK or another of the codes
 * below. A call may be made from any thread unless it says otherwise; no call waits, except
 * flux_driver_wait_command. Pointers have to be valid; nothing is kept after a call returns.
 */
#ifndef FLUX_DRIVER_H_
#define FLUX_DRIVER_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface; another one has other functions or structures. */
#define FLUX_DRIVER_ABI 2

typedef struct FluxDriver FluxDriver;

enum FluxDriverResult {
  FLUX_DRIVER_OK = 0,
  FLUX_DRIVER_WRONG_SIZE = -1,    /* an array is not of the size in the memory's layout */
  FLUX_DRIVER_NO_CAMERA = -2,     /* there is no camera of this index */
  FLUX_DRIVER_OLD_SESSION = -3,   /* the number is not larger than that of every earlier session */
  FLUX_DRIVER_UNKNOWN_VALUE = -4, /* a phase that does not exist, or a share outside 0 to 1 */
};

/* What flux_driver_wait_command found. */
enum FluxDriverCommandResult {
  FLUX_DRIVER_COMMAND = 0,       /* a command to execute */
  FLUX_DRIVER_NOTHING = 1,       /* no command arrived in time */
  FLUX_DRIVER_TOO_OLD = 2,       /* dropped: it was sent more than three periods ago */
  FLUX_DRIVER_STEP = 3,          /* refused: a joint would move by more than three nominal steps */
  FLUX_DRIVER_NOT_FINITE = 4,    /* refused: a NaN or an infinity */
  FLUX_DRIVER_OTHER_SESSION = 5, /* ignored: its session has ended, or has not begun */
  FLUX_DRIVER_NO_STATE = 6,      /* refused: the first command of a session, and no state yet */
};

/* What flux_driver_watch found. All but FLUX_DRIVER_FINE have ended the session. */
enum FluxDriverWatchResult {
  FLUX_DRIVER_FINE = 0,
  FLUX_DRIVER_SILENT = 1, /* the policy gave no sign of life for more than three periods */
  FLUX_DRIVER_STOP = 2,   /* the policy asks for a stop of `category` */
  FLUX_DRIVER_CLOSED = 3, /* the policy has gone; no session will follow */
};

/* Values of flux_driver_set_phase. */
enum FluxDriverPhase {
  FLUX_DRIVER_CONNECTING = 0,
  FLUX_DRIVER_READY = 1,   /* states and frames arrive */
  FLUX_DRIVER_STOPPED = 2, /* the driver has stopped the robot */
  FLUX_DRIVER_FAILED = 3,  /* the driver cannot go on */
  FLUX_DRIVER_CLOSING = 4,
};

typedef struct FluxDriverLayout {
  uint32_t action_dim;
  uint32_t state_dim;
  uint32_t num_cameras;
  uint32_t commands_are_differences; /* 1: commands are changes, and steps are not checked */
  int64_t period_ns;                 /* between two commands */
} FluxDriverLayout;

typedef struct FluxDriverCommand {
  uint64_t sequence; /* from 1 within a session; commands that were overwritten leave gaps */
  uint64_t session;
  int64_t tick_ns;     /* for which time the limits were applied */
  int64_t observed_ns; /* oldest capture time of what it was made from; 0 if none */
  int64_t sent_ns;     /* when it left the control loop */
  uint32_t flags;      /* the control loop's tick flags */
  int32_t joint;       /* the joint for which it was refused; -1 if none */
  double step;         /* how far that joint would have moved, in the joint's unit */
  double max_step;     /* how far it may */
} FluxDriverCommand;

/* Commands that were not executed since the memory was opened. */
typedef struct FluxDriverCounters {
  uint64_t dropped_old;
  uint64_t refused_steps;
  uint64_t refused_not_finite;
  uint64_t refused_sessions;
  uint64_t overwritten; /* replaced by a newer command before they were taken */
} FluxDriverCounters;

/* Returns FLUX_DRIVER_ABI of the library. */
uint32_t flux_driver_abi(void);

/* Returns the time, in nanoseconds on CLOCK_MONOTONIC. */
int64_t flux_driver_now_ns(void);

/* Maps the memory behind `fd`, which stays open and is not needed afterwards. Returns NULL, and one
 * line of at most `error_bytes` in `error`, if it is not a memory of this version, if its sizes
 * contradict each other, if its size could still change, or if it already has a driver. */
FluxDriver* flux_driver_open(int fd, char* error, size_t error_bytes);

/* Unmaps the memory. No other call may be running or follow. NULL is ignored. */
void flux_driver_close(FluxDriver* driver);

void flux_driver_layout(const FluxDriver* driver, FluxDriverLayout* layout);

/* Gives a camera's image size in pixels. Returns FLUX_DRIVER_NO_CAMERA for an unknown index. */
int flux_driver_camera(const FluxDriver* driver, uint32_t camera, uint32_t* height,
                       uint32_t* width);

/* Publishes a state of `count` values, (state_dim,), captured at `captured_ns`. One thread at a
 * time. Returns FLUX_DRIVER_WRONG_SIZE for another count. */
int flux_driver_publish_state(FluxDriver* driver, const float* values, uint32_t count,
                              int64_t captured_ns);

/* Says at which share of its commanded speed the robot moves by its own decision, from 0 to 1; for
 * the states that are published afterwards. 1 until the first call. At 0 the robot stands still and
 * is sent the same command. Returns FLUX_DRIVER_UNKNOWN_VALUE for another number. */
int flux_driver_set_speed_scaling(FluxDriver* driver, double share);

/* Publishes an RGB image, (height, width, 3) bytes without padding, captured at `captured_ns`. One
 * thread per camera at a time. Returns FLUX_DRIVER_NO_CAMERA or FLUX_DRIVER_WRONG_SIZE. */
int flux_driver_publish_frame(FluxDriver* driver, uint32_t camera, const uint8_t* pixels,
                              uint32_t height, uint32_t width, int64_t captured_ns);

/* Accepts commands of `session` from now on, while the policy announces that it runs. `session` is
 * larger than every one before, and less than 2^48; else returns FLUX_DRIVER_OLD_SESSION. */
int flux_driver_begin(FluxDriver* driver, uint64_t session);

/* Accepts no commands until the next flux_driver_begin. For the driver's own stop. */
void flux_driver_end(FluxDriver* driver);

/* Waits up to `timeout_ns` for the newest command that was not returned yet, and returns one of
 * FluxDriverCommandResult. Fills `command`, and `values`, (action_dim,), unless nothing arrived.
 * One thread at a time. The first command of a session is compared with the newest state, the
 * others with the last command that was returned as FLUX_DRIVER_COMMAND. */
int flux_driver_wait_command(FluxDriver* driver, float* values, FluxDriverCommand* command,
                             int64_t timeout_ns);

/* Says that the robot has accepted the command of this session and sequence. */
void flux_driver_acknowledge(FluxDriver* driver, uint64_t session, uint64_t sequence);

/* A sign of life, at least once per period. */
void flux_driver_beat(FluxDriver* driver);

/* Returns one of FluxDriverWatchResult, each SILENT and STOP once; `category` is set for STOP (0, 1
 * or 2, as in IEC 60204-1). To be called at least once per period. */
int flux_driver_watch(FluxDriver* driver, uint32_t* category);

/* Tells the policy's side what the driver is doing. */
int flux_driver_set_phase(FluxDriver* driver, uint32_t phase);

/* Tells the policy's side which stages a simulated robot has reached, one bit per stage. */
void flux_driver_set_progress(FluxDriver* driver, uint32_t bits);

void flux_driver_counters(const FluxDriver* driver, FluxDriverCounters* counters);

#ifdef __cplusplus
}
#endif

#endif /* FLUX_DRIVER_H_ */

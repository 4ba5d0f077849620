"""A fake arm in its own process, its driver, a scripted policy, and a judge of what it received."""

"""Which signals a worker process heeds."""

import os
import signal
import threading


def heed_the_parent_alone(worker_id: int) -> None:
    """Let a worker outlive the signals that a terminal or a scheduler sends to every process of a run.

    The main process answers them: it takes its step to the end, for which it may still need a batch, saves, and ends
    its workers. So Ctrl-C and SIGUSR1 are ignored, and SIGTERM is obeyed where it comes from the parent; where a system
    does not tell the sender of a signal (macOS), SIGTERM ends a worker as ever.
    """
    for ignored in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)

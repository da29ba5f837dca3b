"""The parts of a watchdog that need no process to end; tests/faults/test_hangs.py has those that do."""

import threading

from resflax.training.limits import DEFAULTS
from resflax.training.moments import phase, reached
from resflax.training.watchdog import Watchdog


def test_what_each_thread_does_is_known():
    with Watchdog(DEFAULTS) as watchdog:
        assert watchdog._doing() == "other at step 0"
        with phase("step", step=7):
            with phase("read", step=8):
                assert watchdog._doing() == "read at step 8"
            assert watchdog._doing() == "step at step 8"
            inside, done = threading.Event(), threading.Event()

            def save():
                with phase("save", step=5):
                    inside.set()
                    done.wait(60)

            thread = threading.Thread(target=save)
            thread.start()
            assert inside.wait(60)
            assert [(work.phases, work.step) for work in watchdog._works.values()] == [(["step"], 8), (["save"], 5)]
            assert watchdog._doing() == "step at step 8"
            done.set()
            thread.join()
            assert len(watchdog._works) == 1  # an idle thread is not watched
        reached("chunk", step=9)
        assert watchdog._doing() == "other at step 9"
    with phase("step", step=1):
        assert watchdog._doing() == "other at step 9"  # it listens no more


def test_a_phase_ends_with_an_error_too():
    with Watchdog(DEFAULTS) as watchdog:
        try:
            with phase("restore", step=3):
                raise OSError
        except OSError:
            pass
        assert watchdog._doing() == "other at step 3"

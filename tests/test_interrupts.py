"""Being told to stop: the first time it is noted, the second time it is obeyed at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cnn.interrupts import Interrupts, interruptible


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_as_its_exit_status(number, status, capfd):
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert interrupts.exit_status is None
        os.kill(os.getpid(), number)
        assert interrupts.exit_status == status
    assert capfd.readouterr().err == "finishing this step, then saving; once more to stop at once\n"
    assert signal.getsignal(number) is before, "afterwards signals do what they did"


def test_a_second_signal_ends_the_process_at_once():
    program = (
        "import os, signal; from cnn.interrupts import Interrupts\n"
        "with Interrupts():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('not here')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "still here\n")


def test_in_a_thread_to_which_python_hands_no_signals_it_does_nothing():
    seen = []

    def work():
        with Interrupts() as interrupts:
            seen.append(interrupts.exit_status)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_ctrl_c_is_one_line_that_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit) as stopped, interruptible("run it again"):
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted; what is done is kept. To go on: run it again\n"


def test_a_machine_that_shuts_down_is_told_how_to_go_on_too(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, interruptible("run it again"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert capsys.readouterr().err == "interrupted; what is done is kept. To go on: run it again\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("module", ["tyro", "jax", "sklearn"])
def test_ctrl_c_among_the_imports_is_one_word_and_no_traceback(module, tmp_path):
    program = (
        "import runpy, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C\n"
        "runpy.run_module('experiments.train', run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-X", "importtime", "-c", program, "--out", str(tmp_path / "run")]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], **streams) as it:
        for line in it.stderr:
            if line.split("|")[-1].strip().startswith(f"{module}."):  # a part of it has been imported
                break
        it.send_signal(signal.SIGINT)
        said = [line for line in it.stderr if not line.startswith("import time:")]
    assert said == ["interrupted\n"]
    assert it.returncode == -signal.SIGINT, "as a shell wants it, which calls it 130"
    assert not (tmp_path / "run").exists()

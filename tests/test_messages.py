"""What a fit says is seen by who asked for it, once, and can be captured, redirected and silenced by logging."""

import io
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from sklearn_irt.messages import tell

PACKAGE = logging.getLogger("sklearn_irt")
SPEAKER = logging.getLogger("sklearn_irt.speaker")


@pytest.fixture(autouse=True)
def _as_it_was():
    """Put back what tests configure."""
    loggers = (logging.root, PACKAGE, SPEAKER)
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    logging.disable(logging.NOTSET)
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


@pytest.fixture
def no_handlers(monkeypatch):
    """Return a function that takes pytest's handlers away, so that logging is as in a fresh notebook."""
    return lambda: monkeypatch.setattr(logging.root, "handlers", [])


@pytest.fixture
def stream():
    """Return a handler of the root that writes to a stream."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(name)s|%(levelname)s|%(funcName)s|%(message)s"))
    return handler


class TestInAFreshNotebook:
    def test_a_message_is_printed(self, capsys, no_handlers):
        no_handlers()
        tell(SPEAKER, "100 % done")
        assert capsys.readouterr() == ("100 % done\n", "")

    @pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
    def test_a_level_without_a_handler_does_not_hide_it(self, capsys, level, no_handlers):
        no_handlers()
        PACKAGE.setLevel(level)
        tell(SPEAKER, "done")
        assert capsys.readouterr() == ("done\n", "")

    @pytest.mark.parametrize(
        "silence",
        [
            lambda: PACKAGE.setLevel(logging.WARNING),
            lambda: SPEAKER.setLevel(logging.WARNING),
            lambda: logging.disable(logging.INFO),
        ],
        ids=["level of the package", "level of the module", "logging.disable"],
    )
    def test_a_user_can_silence_it(self, capsys, silence, no_handlers):
        no_handlers()
        silence()
        tell(SPEAKER, "done")
        assert capsys.readouterr() == ("", "")


class TestWhereLoggingIsConfigured:
    def test_a_handler_that_takes_it_is_the_only_one_to_show_it(self, capsys, stream, no_handlers):
        no_handlers()
        logging.basicConfig(level=logging.INFO, handlers=[stream])
        tell(SPEAKER, "done")
        name = "test_a_handler_that_takes_it_is_the_only_one_to_show_it"
        assert stream.stream.getvalue() == f"sklearn_irt.speaker|INFO|{name}|done\n"
        assert capsys.readouterr() == ("", "")

    def test_the_packages_messages_can_be_redirected_alone(self, capsys, stream, no_handlers):
        no_handlers()
        PACKAGE.setLevel(logging.INFO)
        PACKAGE.addHandler(stream)
        PACKAGE.propagate = False
        tell(SPEAKER, "done")
        assert stream.stream.getvalue().endswith("|done\n")
        assert capsys.readouterr() == ("", "")

    def test_where_only_warnings_are_shown_it_is_printed(self, capsys, stream, no_handlers):
        no_handlers()
        logging.basicConfig(level=logging.WARNING, handlers=[stream])  # as Colab has it
        tell(SPEAKER, "done")
        assert stream.stream.getvalue() == ""
        assert capsys.readouterr().out == "done\n"

    def test_where_the_handler_shows_only_warnings_it_is_printed(self, capsys, stream, no_handlers):
        no_handlers()
        stream.setLevel(logging.WARNING)
        logging.basicConfig(level=logging.INFO, handlers=[stream])
        tell(SPEAKER, "done")
        assert stream.stream.getvalue() == ""
        assert capsys.readouterr().out == "done\n"

    def test_what_is_logged_has_no_colours(self, stream, no_handlers):
        no_handlers()
        logging.basicConfig(level=logging.INFO, handlers=[stream])
        tell(SPEAKER, "loss \x1b[36m0.25\x1b[0m")
        assert stream.stream.getvalue().endswith("|loss 0.25\n")


def test_a_fit_says_what_was_chosen(make_classifier, revisions, capsys):
    make_classifier(verbose=1).fit(*revisions)
    printed = capsys.readouterr().out
    assert "Computing in fp32 on cpu; layers 2-3 may train, of 4 that run." in printed
    assert "are kept" in printed
    assert "train_loss" not in printed


def test_with_2_a_fit_gives_a_line_an_epoch_and_says_which_weights_it_keeps(make_classifier, revisions, capsys):
    stopping = {"early_stopping": True, "validation_fraction": 0.2, "scoring": "accuracy", "max_epochs": 30}
    classifier = make_classifier(verbose=2, **stopping, learning_rate=0.03).fit(*revisions)
    lines = capsys.readouterr().out.splitlines()
    (header,) = [row for row, line in enumerate(lines) if "valid_accuracy" in line and "train_loss" in line]
    epochs = [line.split()[0] for line in lines[header + 2 : header + 2 + classifier.n_iter_]]
    assert epochs == [str(epoch + 1) for epoch in range(classifier.n_iter_)]
    assert lines[-2:] == [
        "Stopping since valid_accuracy has not improved in the last 2 epochs.",
        f"Restoring best model from epoch {classifier.n_iter_ - 2}.",
    ]


@pytest.mark.parametrize("logger", ["sklearn_irt", None])
def test_a_user_who_listens_gets_the_lines_from_logging_alone(make_classifier, revisions, caplog, capsys, logger):
    caplog.set_level(logging.INFO, logger)
    make_classifier(verbose=2).fit(*revisions)
    said = [record for record in caplog.records if record.name.startswith("sklearn_irt")]
    assert {(record.name, record.levelno) for record in said} == {
        ("sklearn_irt.classifier", logging.INFO),
        ("sklearn_irt.training", logging.INFO),
    }
    assert said[0].message.startswith("Computing in fp32 on cpu")
    assert "train_loss" in said[2].message
    assert capsys.readouterr().out == ""


def test_0_is_silent_even_where_somebody_listens(make_classifier, revisions, caplog, capfd):
    caplog.set_level(logging.DEBUG, "sklearn_irt")
    stopping = {"early_stopping": True, "validation_fraction": 0.2, "max_epochs": 30, "learning_rate": 0.03}
    make_classifier(**stopping).fit(*revisions).predict(revisions[0])
    assert not [record for record in caplog.records if record.name.startswith("sklearn_irt")]
    assert capfd.readouterr() == ("", "")


def test_fits_in_threads_show_each_line_once_and_leave_logging_as_it_was(
    make_classifier, revisions, capsys, no_handlers
):
    no_handlers()

    def state():
        return [(logger.level, logger.handlers, logger.propagate) for logger in (logging.root, PACKAGE)]

    before = state()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: make_classifier(verbose=1, random_state=seed).fit(*revisions), range(2)))
    assert capsys.readouterr().out.count("Computing in fp32") == 2
    assert state() == before

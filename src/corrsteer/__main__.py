"""``python -m corrsteer``: work with finished runs, sweeps and plans, and with the stage cache.

Each command imports what it needs when it is called, so ``--help`` answers at once. An error is one
line and exit code 2. Runs and sweeps are ``python -m src.main``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from corrsteer.errors import CorrSteerError, DataError
from corrsteer.export.formats import FORMATS


def report(folder: Path) -> None:
    """Write the report of a run or sweep again."""
    if _is_sweep(folder):
        from corrsteer.report.sweep_page import write_sweep_report
        from corrsteer.report.terminal import print_summary

        write_sweep_report(folder)
        print_summary(folder)
    elif (folder / "saes.json").exists():
        from corrsteer.report.training_page import write_training_page

        print(f"report: {write_training_page(folder)}")
    elif (folder / "metrics.json").exists():
        from corrsteer.report.run_page import write_run_report

        print(f"report: {write_run_report(folder)}")
    else:
        raise DataError(_no_run(folder))


def _is_sweep(folder: Path) -> bool:
    return (folder / "multirun.yaml").exists()


def _no_run(folder: Path) -> str:
    """Why there is nothing to report, and which folder to give instead."""
    text = f"no finished run in {folder}: "
    from corrsteer.store.runfolder import RunFolder

    if status := RunFolder(folder).status():
        error = f" ({status['error']})" if status.get("error") else ""
        if status.get("state") == "done":
            error = ", but has no metrics.json"
        return f"{text}it is {status.get('state')}{error}; type its command again"
    homes = [folder, *(folder / name for name in ("outputs", "runs", "sweeps", "outputs/runs"))]
    found = [f.parent for home in homes for f in sorted(home.glob("*/metrics.json"))]
    found += [f.parent for home in homes for f in sorted(home.glob("*/multirun.yaml"))]
    if folder.parent.joinpath("metrics.json").exists():
        found = [folder.parent]
    such_as = f", such as {found[-1]}" if found else ", such as outputs/runs/TIME_NAME"
    return f"{text}give the folder of a run or sweep{such_as}"


def track(folder: Path) -> None:
    """Send a finished run, or the report of a sweep, to its tracker again."""
    from corrsteer.trackers.sending import send

    if not _is_sweep(folder) and not (folder / "metrics.json").exists():
        raise DataError(_no_run(folder))
    try:
        send(folder)
    except CorrSteerError:
        raise
    except Exception as error:  # whatever wandb, or the server, answers
        raise CorrSteerError(str(error) or type(error).__name__) from error


def dashboard(place: str) -> int:
    """Save a workspace for tracked runs, and print its address."""
    from corrsteer.trackers.dashboard import main

    return main([place])


def cache(folder: Path, every: bool, older_than: float | None, delete: bool) -> None:
    """List the stage cache, or delete what has not been used for some days."""
    from corrsteer.store.listing import show

    show(folder, entries=every, older_than=older_than, delete=delete)


def plans(options: argparse.Namespace) -> None:
    """Take a plan elsewhere, check it, or show it."""
    if not options.folder.is_dir():
        raise DataError(f"there is no folder {options.folder}; give the folder of a run or plan")
    if options.command == "export":
        from corrsteer.export.command import export

        measure = not options.no_measure
        export(options.folder, options.format, options.out, measure=measure, limit=options.limit)
    elif options.command == "verify":
        from corrsteer.export.verify import verify

        verify(options.folder, options.model)
    else:
        from corrsteer.export.card import inspect

        inspect(options.folder)


def dial(options: argparse.Namespace) -> None:
    """Serve a plan: a page with a dial, and an API."""
    if not options.folder.is_dir():
        raise DataError(f"there is no folder {options.folder}; give the folder of a run or plan")
    from corrsteer.serve.command import dial as serve

    serve(
        options.folder,
        options.model,
        port=options.port,
        key=options.key,
        most=options.max_tokens,
        prompt=options.max_prompt,
        waiting=options.waiting,
    )


def claims(options: argparse.Namespace) -> int:
    """Run the studies of all claims, and write the page with their answers."""
    from corrsteer.claims.command import claims as answer

    return answer(options.words, options.only, options.docs, options.render, options.folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    parser = _parser()
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if typed and "=" in typed[0] and not typed[0].startswith("-"):
        parser.error(f"{typed[0]} is a setting of a run: corrsteer {typed[0]}, without python -m")
    options = parser.parse_args(typed)
    try:
        if options.command == "cache":
            if options.delete and options.older_than is None:
                parser.error("--delete needs --older-than DAYS")
            if options.clear:
                from corrsteer.store.listing import clear

                clear(options.folder)
            else:
                cache(options.folder, options.all, options.older_than, options.delete)
        elif options.command == "dashboard":
            return dashboard(options.place)
        elif options.command in ("export", "verify", "inspect"):
            plans(options)
        elif options.command == "dial":
            dial(options)
        elif options.command == "claims":
            return claims(options)
        else:
            if not options.folder.is_dir():
                raise DataError(
                    f"there is no folder {options.folder}; give the folder of a run or sweep"
                )
            try:
                {"report": report, "track": track}[options.command](options.folder)
            except CorrSteerError:
                raise
            except Exception as error:  # files that are whole and do not fit together
                words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise DataError(
                    f"the files of {options.folder} do not fit together ({words}): type the command"
                    " of the run or sweep again"
                ) from error
        sys.stdout.flush()
    except CorrSteerError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a process that SIGPIPE ends
    return 0


_FOLDER = "of a run, such as outputs/runs/TIME_NAME, or of a sweep"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse has the usage in front of it."""
        self.exit(2, f"error: {message}; type {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m corrsteer", description=__doc__.partition(":")[2].split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, about: str, details: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, description=f"{about}{details}")

    one = add("report", "write the report of a run or sweep again")
    one.add_argument("folder", type=Path, metavar="FOLDER", help=_FOLDER)
    one = add(
        "cache",
        "list the stage cache, or delete what is old",
        ": entries, unfinished work that a later job continues, temporary folders of jobs that"
        " are writing now or were killed, and damaged entries that were set aside",
    )
    one.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("outputs/cache"),
        metavar="FOLDER",
        help="the cache of the runs, their setting cache; outputs/cache where none is given",
    )
    one.add_argument("--all", action="store_true", help="a line for each entry")
    one.add_argument(
        "--older-than",
        type=_days,
        metavar="DAYS",
        help="only what has not been used for this many days",
    )
    one.add_argument("--delete", action="store_true", help="delete it; needs --older-than")
    one.add_argument(
        "--clear", action="store_true", help="delete all of it; only while no run is working"
    )
    one = add("track", "send a finished run, or a sweep's report, to its tracker again")
    one.add_argument("folder", type=Path, metavar="FOLDER", help=_FOLDER)
    one = add(
        "dashboard",
        "build a wandb workspace for tracked runs",
        ": those of a run's or sweep's folder, or all of a project",
    )
    one.add_argument("place", metavar="FOLDER|ENTITY/PROJECT", help="a folder, or a wandb project")
    one = add(
        "export",
        "write the plan of a run for another program, and measure it as that steers",
        f": {'; '.join(f'{name} ({f.models})' for name, f in FORMATS.items())}",
    )
    one.add_argument("folder", type=Path, metavar="RUN", help="of a finished run")
    one.add_argument("format", choices=FORMATS, metavar="FORMAT", help=f"{', '.join(FORMATS)}")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="RUN/export/FORMAT if not given")
    one.add_argument("--no-measure", action="store_true", help="write the files alone")
    one.add_argument(
        "--limit", type=_count, metavar="N", help="measure on the first N test questions"
    )
    one = add(
        "verify",
        "check that a plan is whole and unchanged, and belongs to a model",
        ": without MODEL the one of its run, and its SAEs",
    )
    one.add_argument("folder", type=Path, metavar="PLAN", help="the folder of a plan or run")
    one.add_argument("model", nargs="?", metavar="MODEL", help="a folder, Hub id or GGUF file")
    one = add("inspect", "show what a plan is")
    one.add_argument("folder", type=Path, metavar="PLAN", help="the folder of a plan or run")
    one = add(
        "dial",
        "turn a plan's dial in a browser, and serve it as an API",
        ", on this machine alone: OpenAI's completions with a field steering",
    )
    one.add_argument("folder", type=Path, metavar="RUN", help="of a finished run, or a plan")
    one.add_argument("model", nargs="?", metavar="MODEL", help="of a plan that lies in no run")
    one.add_argument("--port", type=_port, default=8765, metavar="N", help="8765; 0 for a free one")
    one.add_argument(
        "--key", metavar="TEXT", help="that requests must bring; better in CORRSTEER_KEY"
    )
    one.add_argument(
        "--max-tokens", type=_count, default=512, metavar="N", help="of an answer; 512"
    )
    one.add_argument(
        "--max-prompt", type=_count, default=4096, metavar="N", help="tokens of a prompt; 4096"
    )
    one.add_argument(
        "--waiting", type=_count, default=32, metavar="N", help="requests that may wait; 32"
    )
    one = add(
        "claims",
        "run the studies of all claims, and write docs/claims.md",
        ": typed again, the same command goes on; typed in the checkout",
    )
    one.add_argument(
        "words", nargs="*", metavar="NAME=VALUE", help="settings of every study, such as limit=100"
    )
    one.add_argument(
        "--only", action="append", default=[], metavar="STUDY", help="this study; may be repeated"
    )
    one.add_argument(
        "--folder",
        action="append",
        default=[],
        metavar="STUDY=FOLDER",
        help="read this sweep of an earlier run, and run nothing; may be repeated",
    )
    one.add_argument(
        "--docs", type=Path, default=Path("docs"), metavar="FOLDER", help="docs where none is given"
    )
    one.add_argument(
        "--render", action="store_true", help="write the page from claims.json, and run nothing"
    )
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 65535, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number such as 30, not {text!r}") from None
    if not days >= 1:
        raise argparse.ArgumentTypeError(
            f"must be at least 1, not {text}: a running job may still need newer files"
        )
    return days


if __name__ == "__main__":
    sys.exit(main())

"""The command: cameleer run, check, recipes, data, eval, report, release, verify, replay, diff."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cameleer
from cameleer.errors import CameleerError
from cameleer.log import console
from cameleer.release.command import add_arguments as add_release_arguments

_EXAMPLES = """\
  cameleer run quickstart                      a tiny model learns arithmetic, in minutes, on a CPU
  cameleer run smollm2_135m_gsm8k --num-steps 3
  cameleer run my_recipe.py:function --resume
  cameleer run runs/quickstart/grpo/recipe.json --name again
  cameleer run smollm2_135m_gsm8k --help       every field of a recipe, with its value
  cameleer check tulu31_8b                     all that can be known wrong before training
  cameleer replay runs/quickstart/grpo --step 37
  cameleer diff runs/quickstart/grpo runs/other/grpo
  cameleer data show MODEL rows.jsonl --format chat
  cameleer data mix quickstart                 rows and tokens of each source of a recipe
  cameleer data pairs MODEL gsm8k/train.jsonl --format gsm8k --output pairs.jsonl
  cameleer eval MODEL --benchmarks gsm8k,math,ifeval
  cameleer report html runs/quickstart         curves, scores and answers on one page
  cameleer report compare evals/before/full evals/after/full tulu31_8b_published
  cameleer release runs/quickstart             a Hugging Face directory with a model card
  cameleer release verify runs/quickstart/release
  cameleer verify                              how often the verifiers err, on a table of cases
  cameleer verify completions.jsonl            score completions against their ground truths
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 for an error that the user can mend, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="cameleer",
        description=cameleer.__doc__,
        epilog="examples:\n" + _EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=cameleer.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in (
        ("run", "train, as a recipe says"),
        ("check", "find what is wrong with a recipe before training"),
    ):
        command = commands.add_parser(
            name, help=purpose, add_help=False, usage=f"cameleer {name} RECIPE [--field value ...]"
        )
        command.add_argument(
            "recipe", nargs="?", help="a recipe's name, file.py:function, or a recipe.json"
        )
        if name == "run":
            command.add_argument("--resume", action="store_true", help="go on where it stopped")
    commands.add_parser("recipes", help="list the recipes that come with Cameleer")
    command = commands.add_parser("replay", help="execute one step of a run again, and compare")
    command.add_argument("run", help="a run's directory")
    command.add_argument("--step", type=int, required=True, help="the step, from 1")
    command.add_argument(
        "--recipe", help="file.py:function, for a run with classes of your own; --fields follow"
    )
    command = commands.add_parser("diff", help="show where two runs part")
    command.add_argument("run", help="a run's directory")
    command.add_argument("other", help="another one's")
    data = commands.add_parser("data", help="look at rows or a mixture, or make pairs with a model")
    tools = data.add_subparsers(dest="tool", required=True, metavar="TOOL")
    command = tools.add_parser("mix", help="what the sources of a recipe come to, in tokens")
    command.add_argument("recipe", help="a recipe, as for run; its --fields may follow")
    _add_data_arguments(tools)
    evaluation = commands.add_parser("eval", help="score a checkpoint or an endpoint")
    _add_eval_arguments(evaluation)
    report = commands.add_parser("report", help="put a run on a page, or results side by side")
    reports = report.add_subparsers(dest="report", required=True, metavar="REPORT")
    command = reports.add_parser("html", help="one page over a run or ladder, finished or not")
    command.add_argument("run", type=Path, help="the directory of a run or ladder")
    command.add_argument("--output", type=Path, help="the file; report.html in the directory")
    command = reports.add_parser("compare", help="evaluations, and which differences are no chance")
    command.add_argument(
        "results", nargs="+", help="directories of `cameleer eval`, or published columns by name"
    )
    command.add_argument(
        "--common", action="store_true", help="compare on the instances that all have"
    )
    release = commands.add_parser("release", help="export a checkpoint with a model card, verified")
    add_release_arguments(release)
    verify = commands.add_parser(
        "verify", help="print the verifiers' errors on a table of cases, or score a file"
    )
    verify.add_argument(
        "file",
        nargs="?",
        type=Path,
        help="a .jsonl, .jsonl.gz or .parquet file with the columns completion (or response, text, "
        "output), ground_truth (or answer, truth), and dataset where --verifier is not given",
    )
    verify.add_argument(
        "--verifier", choices=["gsm8k", "math", "ifeval"], help="for all rows of the file"
    )
    verify.add_argument("--compat", choices=["tulu3"], default="", help="the published rules")
    verify.add_argument("--output", type=Path, help="a .jsonl file to write the verdicts to")
    known, rest = parser.parse_known_args(arguments)
    # Threads that wait by spinning long collapse when another process wants a core: ten times
    # slower on two cores. OpenMP reads this when torch is imported, which no line above does.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    takes_fields = known.command in ("run", "check")
    has_recipe = known.command in ("replay", "data") and getattr(known, "recipe", None)
    if rest and not takes_fields and not has_recipe:
        parser.error(f"{known.command} does not take {' '.join(rest)}")
    if known.command == "verify" and known.file is None and _file_options(known):
        parser.error("verify takes --verifier, --compat and --output together with a file only")
    if takes_fields and (known.recipe is None or known.recipe.startswith("-")):
        # The help of a command is that of its recipe's fields, and there is no recipe.
        parser.print_help()
        return 0 if {"-h", "--help"} & {known.recipe, *rest} else 2
    try:
        if known.command == "run":
            return _run(known.recipe, rest, resume=known.resume)
        if known.command == "check":
            return _check(known.recipe, rest)
        if known.command == "replay":
            return _replay(Path(known.run), known.step, known.recipe, rest)
        if known.command == "diff":
            from cameleer.report.diff import diff

            return diff(Path(known.run), Path(known.other))
        if known.command == "data":
            if known.tool == "mix":
                return _mix(known.recipe, rest)
            from cameleer.curate.command import make, show

            return show(known) if known.tool == "show" else make(known)
        if known.command == "eval":
            from cameleer.evaluate import run

            return run(known)
        if known.command == "report" and known.report == "html":
            from cameleer.report.html import write_report

            console.print(f"report: {write_report(known.run, known.output)}")
            return 0
        if known.command == "report":
            from cameleer.report.compare import compare

            return compare(known.results, known.common)
        if known.command == "release":
            from cameleer.release.command import run as run_release

            return run_release(known)
        if known.command == "verify":
            return _verify(known)
        return _recipes()
    except CameleerError as error:
        console.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        if known.command == "eval":
            console.print("stopped; the same command goes on with the answers that are there")
        else:
            console.print("stopped; --resume goes on from the last checkpoint")
        return 130


def _add_data_arguments(tools: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = tools.add_parser(
        "show", help="rows as the model will see them, trained tokens in colour"
    )
    pairs = tools.add_parser("pairs", help="preference pairs from a model's own, rated answers")
    for command in (show, pairs):
        add = command.add_argument
        add("model", help="a Hugging Face directory or hub id")
        add("source", help="a .jsonl, .jsonl.gz or .parquet file, a hub id, or file.py:function")
        formats = ["rlvr", "gsm8k", "math", "chat"]
        formats += ["preference"] if command is show else []
        add("--format", choices=formats, required=True)
        add("--split", default="train")
        add("--subset", help="configuration of a hub data set that has several")
        add("--chat-template", choices=["tokenizer", "tulu"], default="tokenizer")
    show.add_argument("--count", type=int, default=3, help="rows to show")
    show.add_argument("--max-tokens", type=int, help="cut, as training with this limit would")
    add = pairs.add_argument
    add("--output", type=Path, required=True, help="a .jsonl file for the pairs")
    add("--right", type=Path, help="a .jsonl file for the right, or best-rated, answers")
    add("--samples", type=int, default=8, help="answers to each question")
    add("--reward-model", metavar="MODEL", help="adds its score to what the verifiers give")
    add("--no-verifiers", action="store_true", help="--reward-model alone rates, as it does chat")
    add("--temperature", type=float, default=1.0)
    add("--max-tokens", type=int, default=512, help="longest answer")
    add("--max-prompt-tokens", type=int, default=2048, help="longer questions are left out")
    add("--count", type=int, help="take the first so many rows")
    add("--seed", type=int, default=0)
    add("--device", choices=["cpu", "cuda"], help="cuda where there is one")
    add("--slots", type=int, default=64, help="answers decoded together")
    add("--threads", type=int, default=2, help="CPU threads of torch")
    add("--workers", type=int, default=2, help="processes that verify")


def _add_eval_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("model", nargs="?", help="a directory, a hub id, or a model's name at --endpoint")
    add("--benchmarks", default="gsm8k,math,ifeval", help="names of --list, or file.py:NAME")
    add("--list", action="store_true", help="name the benchmarks and their metrics")
    add("--rescore", type=Path, metavar="DIR", help="score stored answers again, without a model")
    add(
        "--profile",
        choices=["full", "dev", "smoke"],
        default="full",
        help="dev: 200 instances; smoke: 8 and 64 tokens, no score",
    )
    add("--data", type=Path, help="directory with the benchmarks' files; without it, the hub")
    add("--output", type=Path, help="directory for answers and results; evals/MODEL/PROFILE")
    add("--samples", type=int, help="answers to each instance, for avg@k and pass@k")
    add("--temperature", type=float, help="another one than the benchmark's: another score")
    add("--max-tokens", type=int, help="another limit than the benchmark's: another score")
    add("--seed", type=int, default=0, help="of sampling")
    add("--device", choices=["cpu", "cuda"], help="cuda where there is one")
    add("--dtype", choices=["float32", "bfloat16"], help="bfloat16 on cuda, float32 on cpu")
    add("--chat-template", choices=["tokenizer", "tulu"], default="tokenizer")
    add("--slots", type=int, help="answers decoded together; without it, what memory holds")
    add("--threads", type=int, default=2, help="CPU threads of torch")
    add("--workers", type=int, default=2, help="processes that score")
    add("--endpoint", metavar="URL", help="ask an OpenAI-compatible server instead")
    add("--tokenizer", help="of the model at --endpoint: prompts are then rendered here")
    add("--context", type=int, help="tokens that the model at --endpoint takes")
    add("--concurrency", type=int, default=16, help="requests in flight at --endpoint")
    add("--timeout", type=float, default=600.0, help="seconds for one request at --endpoint")
    add(
        "--api-key-variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="the environment variable that holds the endpoint's key",
    )


def _run(reference: str, rest: Sequence[str], *, resume: bool) -> int:
    from cameleer.overrides import override
    from cameleer.recipe import Ladder
    from cameleer.recipe_files import load

    recipe = override(load(reference), rest, prog=f"cameleer run {reference}")
    recipe.validate()
    from cameleer.distributed.launch import run
    from cameleer.report.curve import draw_curve, heldout_line, ladder_table, summary_table
    from cameleer.report.html import write_report

    directories = run(recipe, resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return 0
    # A stage that only answers questions has no metrics.
    directories = [d for d in directories if (d / "metrics.jsonl").exists()]
    for directory in directories:
        curve = draw_curve(directory)
        if len(directories) == 1:
            console.print(summary_table(directory))
        console.print(f"curve: {curve}")
    whole = directories[-1].parent if isinstance(recipe, Ladder) else directories[-1]
    console.print(f"report: {write_report(whole)}")
    if len(directories) > 1:
        console.print(ladder_table(directories))
    elif line := heldout_line(directories[-1]):
        console.print(line)
    # A Curate stage at the end has nothing to release.
    ends_otherwise = isinstance(recipe, Ladder) and recipe.stages[-1].name != directories[-1].name
    stage = f" --stage {directories[-1].name}" if ends_otherwise else ""
    console.print(f"next: cameleer release {whole}{stage}")
    return 0


def _check(reference: str, rest: Sequence[str]) -> int:
    from cameleer.overrides import override
    from cameleer.recipe_files import load

    recipe = override(load(reference), rest, prog=f"cameleer check {reference}")
    from cameleer.train.check import check

    return check(recipe)


def _mix(reference: str, rest: Sequence[str]) -> int:
    from cameleer.overrides import override
    from cameleer.recipe_files import load

    recipe = override(load(reference), rest, prog=f"cameleer data mix {reference}")
    from cameleer.curate.mix import mix

    return mix(recipe)


def _replay(directory: Path, step: int, reference: str | None, rest: Sequence[str]) -> int:
    from cameleer.distributed.launch import process_group
    from cameleer.overrides import override
    from cameleer.recipe import Ladder, Recipe
    from cameleer.recipe_files import load
    from cameleer.train import ranks
    from cameleer.train.ladder import placed_stages
    from cameleer.train.replay import replay, report

    recipe = None
    if reference:
        named = override(load(reference), rest, prog=f"cameleer replay --recipe {reference}")
        placed = placed_stages(named) if isinstance(named, Ladder) else [named]
        of_run = [stage for stage in placed if isinstance(stage, Recipe)]
        recipe = next((stage for stage in of_run if stage.name == directory.name), of_run[0])
    with process_group():
        findings = replay(directory, step, recipe)
        return report(directory, step, findings) if ranks.is_main() else 0


def _verify(known: argparse.Namespace) -> int:
    from cameleer.verify import verify_file, verify_table

    if known.file is None:
        return verify_table()
    return verify_file(
        known.file, verifier=known.verifier, compat=known.compat, output=known.output
    )


def _file_options(known: argparse.Namespace) -> bool:
    return bool(known.verifier or known.compat or known.output)


def _recipes() -> int:
    from cameleer.recipe_files import named_recipes

    for name, function in named_recipes().items():
        purpose = (inspect.getdoc(function) or "").split("\n")[0]
        console.print(f"[bold]{name:<22}[/] {purpose}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

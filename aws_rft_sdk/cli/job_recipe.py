"""`aws-rft job recipe`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from aws_rft_sdk.cli._job_options import json_option, out_options, write_out
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import reader_may_leave
from aws_rft_sdk.jobs._recipe_kinds import PLACES, TECHNIQUES
from aws_rft_sdk.jobs.nova_recipe import NovaRecipe, first_configuration, read_recipe

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_on = click.option("--on", type=click.Choice(PLACES), help="For a YAML.  [default: seen from its keys]")


@click.group("recipe")
def recipe_command() -> None:
    """Write, check and launch recipes of Nova for SageMaker training jobs (smtj) and HyperPod."""


@recipe_command.command("init")
@click.option("--on", required=True, type=click.Choice(PLACES), help="Where the recipe runs.")
@click.option("--kind", required=True, type=click.Choice(TECHNIQUES), help="LoRA, all weights, or an evaluation.")
@out_options
@usage_errors
def init(on: str, kind: str, out: Path | None, force: bool) -> None:
    """Write a first configuration, every field with its rule, default and source."""
    hint = f"Fill in the names, then type: aws-rft job recipe write {out} -o recipe.yaml"
    write_out(first_configuration(on, kind), out, force, hint)


@recipe_command.command("write")
@_FILE
@out_options
@click.pass_context
@usage_errors
def write(ctx: click.Context, file: Path, out: Path | None, force: bool) -> None:
    """Write the YAML of the configuration FILE. Problems and notes go to stderr.

    Exit status: 0, or 2 if the file has problems. Then nothing is written.
    """
    found = read_recipe(file)
    _print_findings(found, err=True)
    if found.problems:
        ctx.exit(2)
    with reader_may_leave():
        write_out(found.to_yaml(), out, force, f"Look at the call that runs it with: aws-rft job recipe launch {file}")


@recipe_command.command("check")
@_FILE
@_on
@json_option
@click.pass_context
@usage_errors
def check(ctx: click.Context, file: Path, on: str | None, as_json: bool) -> None:
    """Check FILE, a configuration (.toml) or a recipe (.yaml), against the published ranges. Nothing is sent.

    Exit status: 0, or 2 if the file has problems. They are printed all at once.
    """
    found = read_recipe(file, on)
    with reader_may_leave():
        if as_json:
            problems = [problem._asdict() for problem in found.problems]
            told = {"on": found.on, "kind": found.kind, "problems": problems, "notes": list(found.notes)}
            click.echo(json.dumps(told, indent=2))
        else:
            _print_findings(found)
            if not found.problems:
                click.echo(f"{file} is a right recipe: {found.kind} on {found.on}")
    ctx.exit(2 if found.problems else 0)


@recipe_command.command("launch")
@_FILE
@_on
@click.option("--recipe", "recipe_file", default="recipe.yaml", show_default=True, help="The YAML, for an evaluation.")
@click.option("--run", is_flag=True, help="Make the call: it starts a job that costs money. Needs the sagemaker SDK.")
@json_option
@usage_errors
def launch(file: Path, on: str | None, recipe_file: str, run: bool, as_json: bool) -> None:
    """Print the call of the sagemaker SDK that runs FILE, as Python or as JSON. Nothing is sent without --run."""
    call = read_recipe(file, on).launch(recipe_file)
    with reader_may_leave():
        click.echo(json.dumps(call.to_json(), indent=2) if as_json else call.code(), nl=as_json)
    for note in call.notes if not as_json else ():
        click.secho(f"note: {note}", fg="yellow", err=True)
    if run:
        click.echo(f"started: {call.run()}", err=True)


def _print_findings(found: NovaRecipe, err: bool = False) -> None:
    for note in found.notes:
        click.secho(f"note: {note}", fg="yellow", err=err)
    for item in found.problems:
        value = json.dumps(item.value, ensure_ascii=False)
        click.secho(f"problem: {item.path or 'the file'} is {value}: {item.rule} ({item.source})", fg="red", err=err)

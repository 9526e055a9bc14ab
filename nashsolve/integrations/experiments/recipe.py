"""A recipe: one table or figure of the paper as a strict YAML file that names a study and gives it its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nashsolve.core.errors import InvalidProblem

from ..checkpoints.strict_yaml import load_file
from ..torch_moe.strict import Strict, nearest
from .study import Study, load_study

Scale = Literal["miniature", "full"]


class Cost(Strict):
    """What a run is expected to cost.

    Attributes
    ----------
    hardware : such as "2 CPU cores" or "4 x 80 GB"
    minutes : of wall clock on it, > 0
    memory_gib : largest memory of one process or GPU, > 0
    known_by : "measured", or "arithmetic" from parameters, tokens and a stated speed
    """

    hardware: str
    minutes: float = Field(gt=0, strict=False)
    memory_gib: float = Field(gt=0, strict=False)
    known_by: Literal["measured", "arithmetic"]


class Recipe(Strict):
    """One experiment.

    Attributes
    ----------
    name : that of the file
    study : module in ``studies/``
    title : one line
    mirrors : tables, figures and sections of the paper
    scale : "miniature" runs on two cores without a network, "full" is the paper's own size
    size : model and steps, in words
    data : where it comes from, in words
    cost : of a run with `settings`
    settings : of the study
    cuda : settings that ``--device cuda`` changes
    cuda_cost : of a run with those
    alone : True for a recipe that times: one process does its units in turn, and all-miniature runs it last
    """

    name: str
    study: str
    title: str
    mirrors: list[str] = Field(min_length=1)
    scale: Scale
    size: str
    data: str
    cost: Cost
    settings: dict[str, Any] = Field(default_factory=dict)
    cuda: dict[str, Any] = Field(default_factory=dict)
    cuda_cost: Cost | None = None
    alone: bool = False

    def load_study(self) -> Study:
        """The module that runs it."""
        return load_study(self.study)

    def chosen(self, device: str, **changes: Any) -> Strict:
        """Validated settings for a device, with `changes` on top.

        Raises
        ------
        InvalidProblem
            For an unknown setting, with the nearest name.
        """
        values = {**self.settings, **(self.cuda if device.startswith("cuda") else {}), **changes}
        return self.load_study().Settings(**values)


def load_recipe(file: Path) -> Recipe:
    """A recipe from its file, settings included.

    Raises
    ------
    InvalidProblem
        For unknown or missing keys, a name that differs from the file's, or settings that the study refuses.
    """
    values = load_file(file)
    if not isinstance(values, dict):
        raise InvalidProblem(f"{file.name} holds no mapping of keys to values")
    for key in ("cost", "cuda_cost"):
        if isinstance(values.get(key), dict):
            values[key] = Cost(**values[key])
    recipe = Recipe(**values)
    if recipe.name != file.stem:
        raise InvalidProblem(f"{file.name} holds the recipe {recipe.name!r}; the file must be named like it")
    recipe.chosen("cpu")
    recipe.chosen("cuda")
    return recipe


def recipe_files(folder: Path | None = None) -> dict[str, Path]:
    """Name -> file of every recipe in `folder`, or in the nearest ``experiments/recipes`` (see `recipes_folder`)."""
    return {file.stem: file for file in sorted((folder or recipes_folder()).glob("*.yaml"))}


def find_recipe(name: str, folder: Path | None = None) -> Recipe:
    """A recipe by its name, or by the path of a YAML file.

    Raises
    ------
    InvalidProblem
        For an unknown name, with the nearest one.
    """
    if name.endswith((".yaml", ".yml")):
        return load_recipe(Path(name))
    files = recipe_files(folder)
    if name not in files:
        raise InvalidProblem(f"recipe is {name!r}; {nearest(name, list(files))}")
    return load_recipe(files[name])


def recipes_folder() -> Path:
    """Where recipes lie: beside this package in an installed wheel, or ``experiments/recipes`` of the checkout.

    Raises
    ------
    InvalidProblem
        Where there are none.
    """
    here = Path(__file__).parent
    for folder in (here / "recipes", here.parents[2] / "experiments" / "recipes", Path("experiments/recipes")):
        if folder.is_dir():
            return folder
    raise InvalidProblem("there is no folder with recipes here: give one with --recipes")

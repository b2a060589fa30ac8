"""The lines of a filter, made of the metadata that the base has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets

from oraculo_kit.display import visible
from oraculo_kit.widgets.base import Explorer
from oraculo_kit.widgets.searching import OPERATORS, Condition, typed_value

__all__ = ["FilterEditor"]

_LISTED = 200  # values to choose from; any other can be typed


class FilterEditor(ipywidgets.VBox):
    """Rows of key, operator and value; for use inside an explorer.

    Parameters
    ----------
    explorer : Explorer
        Whose store, lock, lanes and language it uses.
    changed : callable
        Called, with the lock held, when the conditions may have changed.
    """

    def __init__(self, explorer: Explorer, changed: Callable[[], object]) -> None:
        _ = explorer.translated
        self._explorer = explorer
        self._changed = changed
        self._count = 0
        self._add = ipywidgets.Button(
            description=_("Add filter"),
            icon="filter",
            layout={"width": "auto", "margin": "0"},
            tooltip=_("Search only where metadata has a value"),
        )
        self._add.on_click(explorer.handler(lambda _button: self.add()))
        super().__init__([self._add])
        self.add_class("oraculo-filter")

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The rows that are filled in."""
        found = [row.condition for row in self.children if isinstance(row, _Row)]
        return tuple(condition for condition in found if condition is not None)

    def add(self) -> None:
        """Add a row; its keys are read in the background."""
        self._count += 1
        store = self._explorer.store

        def keys(_job: Any) -> list[str]:
            return ["source", *(key.name for key in store.metadata_keys() if not key.name.startswith("$"))]

        def done(names: list[str]) -> None:
            row = _Row(self._explorer, names, self._changed, self._remove, f"values-{self._count}")
            self.children: Any = (*self.children[:-1], row, self._add)

        self._explorer.background(keys, done, lane="keys")

    def _remove(self, row: _Row) -> None:
        self.children = tuple(one for one in self.children if one is not row)
        row.close_all()
        self._changed()


class _Row(ipywidgets.HBox):
    def __init__(
        self,
        explorer: Explorer,
        keys: list[str],
        changed: Callable[[], object],
        remove: Callable[[_Row], None],
        lane: str,
    ) -> None:
        _ = explorer.translated
        self._explorer = explorer
        self._changed = changed
        self._lane = lane
        self._known: list[Any] = []
        narrow = ipywidgets.Layout(width="auto")
        self.key = ipywidgets.Dropdown(
            options=[(visible(key), key) for key in keys],
            value=keys[0],
            tooltip=_("Metadata key"),
            layout=narrow,
        )
        self.operator = ipywidgets.Dropdown(
            options=[(_(label), operator) for operator, label in OPERATORS.items()],
            tooltip=_("Condition"),
            layout=narrow,
        )
        self.value = ipywidgets.Combobox(
            placeholder=_("value"), continuous_update=False, tooltip=_("Value"), layout=narrow
        )
        self._remove = ipywidgets.Button(
            description=_("Remove"), tooltip=_("Remove this filter"), layout=ipywidgets.Layout(width="auto")
        )
        self._remove.on_click(explorer.handler(lambda _button: remove(self)))
        self.key.observe(explorer.handler(lambda _change: self._read_values()), "value")
        self.operator.observe(explorer.handler(lambda _change: self._operator_changed()), "value")
        self.value.observe(explorer.handler(lambda _change: changed()), "value")
        super().__init__([self.key, self.operator, self.value, self._remove])
        self.add_class("oraculo-bar-row")
        self._read_values()

    @property
    def condition(self) -> Condition | None:
        if self.operator.value == "$exists":
            return Condition(self.key.value, "$exists")
        text = self.value.value
        # Texts that read alike once their steering characters are shown are told apart by what was listed.
        shown = {visible(str(value)): value for value in reversed(self._known)}
        if not text.strip():
            return None
        value = shown[text] if text in shown else typed_value(text, self._known)
        return Condition(self.key.value, self.operator.value, value)

    def _operator_changed(self) -> None:
        self.value.layout.display = "none" if self.operator.value == "$exists" else None
        self._changed()

    def _read_values(self) -> None:
        store, key = self._explorer.store, self.key.value
        self._known = []
        self.value.value, self.value.options = "", ()
        self.value.disabled = True  # what is typed before the list comes would be lost when it comes

        def done(values: list[tuple[Any, int]]) -> None:
            before = self.condition
            self._known = [value for value, _ in values]
            self.value.disabled = False
            if (
                self.condition != before
            ):  # somebody was faster, and only now it is known that 2024 is a number here
                self._changed()
            self.value.options = tuple(dict.fromkeys(visible(str(value)) for value in self._known))

        self._explorer.background(lambda _job: store.metadata_values(key, _LISTED), done, lane=self._lane)

    def close_all(self) -> None:
        for widget in self.children:
            widget.close()
        self.close()

"""The gates of a report as JUnit XML, which every CI system can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree import ElementTree

from excise.reports.gates import GateResult
from excise.reports.text import sentence, visible_text
from excise.reports.wording import describe_gate


def render_junit(
    gates: Sequence[GateResult],
    suite_name: str,
    notes: Sequence[str] = (),
    clean: Callable[[str], str] = str,
) -> bytes:
    """Return the gates as one suite, a test case per gate; unmeasured ones are errors.

    `notes` become the suite's output. `clean` removes secrets from whatever others wrote.
    """

    def show(text: str) -> str:
        return visible_text(clean(text))

    errors = [gate for gate in gates if gate.value is None]
    failures = [gate for gate in gates if gate.value is not None and not gate.passed]
    suite = ElementTree.Element(
        "testsuite",
        name=show(suite_name),
        tests=str(len(gates)),
        failures=str(len(failures)),
        errors=str(len(errors)),
        skipped="0",
    )
    for gate in gates:
        suite.append(_build_case(gate, show))
    if notes:
        said = "\n".join(map(sentence, notes))
        ElementTree.SubElement(suite, "system-out").text = show(said)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _build_case(gate: GateResult, show: Callable[[str], str]) -> ElementTree.Element:
    group = "gate" if gate.group is None else gate.group.value
    case = ElementTree.Element("testcase", classname=f"excise.gate.{group}", name=show(gate.name))
    line = show(describe_gate(gate))
    if gate.value is not None and gate.passed:
        ElementTree.SubElement(case, "system-out").text = line
        return case
    kind = "error" if gate.value is None else "failure"
    found = ElementTree.SubElement(case, kind, message=line, type=kind)
    sentences = [gate.sentence, gate.remedy or ""]
    found.text = show(" ".join(sentence(text) for text in sentences if text))
    return case

"""What the facts of a job's nodes say together: pure functions from facts to sentences.

`problems` keep the job from starting; each names its nodes, what is wrong or differs, and the remedy. `notes` are for
the record: a slow link, a tired GPU.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from trainkit.job import Job

Facts = Sequence[Mapping[str, Any]]
_CLOCK_SECONDS = 5.0
_LEAST_BYTES = 64_000_000
_LEAST_FILES = 1024
_SLOW, _VERY_SLOW = 50.0, 12.5  # MB/s; the second is a network of 100 Mbit/s
_NAMED_NODES, _NAMED_PACKAGES = 8, 5
_INSTALLERS = ("pip", "setuptools", "wheel", "uv", "distribute", "pkg-resources")
_SAME_PYTHON = (
    "Install it there at the same path, put it on a shared path, or use an environment with inherit=False, which is "
    "built on each node."
)
_SAME_PACKAGES = (
    "Install the same versions there, put the interpreter on a shared path, or use an environment with inherit=False, "
    "which is built on each node from one list."
)


def problems(job: Job, names: Sequence[str], facts: Facts) -> List[str]:
    """What keeps these nodes from running this job together; `names` and `facts` in the order of their ranks."""
    found: List[Tuple[int, str]] = []
    for node, fact in enumerate(facts):
        found += [(node, words) for words in _alone(job, fact)]
    found += _differing(names, facts)
    found += list(_links(names, facts))
    return grouped(names, found)


def notes(job: Job, names: Sequence[str], facts: Facts) -> List[str]:
    """What is worth knowing and keeps nothing from running."""
    found: List[Tuple[int, str]] = []
    for node, fact in enumerate(facts):
        health = fact.get("gpu_health") or {}
        found += [(node, words + ".") for words in health.get("notes", ())]
        if not job.gpus_per_node:
            found += [(node, words + ".") for words in health.get("bad", ())]
    found += _odd(facts, lambda f: f["python"].get("version"), "has Python %s, where %s has %s.", names)
    found += _odd(facts, lambda f: f.get("driver") or None, "has the NVIDIA driver %s, where %s has %s.", names)
    rates = [(fact.get("link") or {}).get("rate") for fact in facts]
    for node, rate in slow(rates).items():
        words = "sends only %.1f MB/s to %s (others: %s): training sends every gradient over its slowest link."
        others = ["%.0f" % r for n, r in enumerate(rates) if n != node and r is not None][:_NAMED_NODES]
        found.append((node, words % (rate, names[(node + 1) % len(names)], ", ".join(others) or "none")))
    return grouped(names, found)


def slow(rates: Sequence[Optional[float]]) -> Dict[int, float]:
    """The links (by the node that sends) much slower than the others, or too slow for any training; in MB/s."""
    found = {}
    for node, rate in enumerate(rates):
        others = sorted(r for n, r in enumerate(rates) if n != node and r is not None)
        median = others[len(others) // 2] if others else 0.0
        if rate is not None and rate < _SLOW and (rate < median / 4 or rate < _VERY_SLOW):
            found[node] = rate
    return found


def grouped(names: Sequence[str], found: Sequence[Tuple[int, str]]) -> List[str]:
    """One sentence for each finding, its nodes before it: "Node 1 (b) lacks ...", "Nodes 1 (b) and 2 (c): ..."."""
    nodes: Dict[str, List[int]] = {}
    for node, words in found:
        nodes.setdefault(words, []).append(node)
    lines = []
    for words, those in nodes.items():
        called = ["%d (%s)" % (n, names[n]) for n in those[:_NAMED_NODES]]
        if len(those) == 1:
            lines.append("Node %s %s" % (called[0], words))
            continue
        more = " and %d more" % (len(those) - _NAMED_NODES) if len(those) > _NAMED_NODES else ""
        lines.append("Each of nodes %s%s %s" % (", ".join(called), more, words))
    return lines


def _alone(job: Job, fact: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with one node by itself."""
    problem = fact["python"].get("problem")
    if problem:
        yield "cannot run the job's Python: %s %s. %s" % (fact["python"]["path"], problem, _SAME_PYTHON)
    if not fact["boot"]:
        yield "does not see %s, which ranks start from. Put the workspace's root on a shared path." % job.boot
    yield from _room(job, fact)
    files = fact["open_files"]
    if 0 <= files < _LEAST_FILES:
        yield "lets a process open only %d files. Raise it there to at least %d (ulimit -n)." % (files, _LEAST_FILES)
    if job.gpus_per_node > fact["gpus"]:
        yield "has %d of the %d GPUs asked for. Ask for fewer, or leave that node out." % (
            fact["gpus"], job.gpus_per_node,
        )  # fmt: skip
    for words in (fact.get("gpu_health") or {}).get("bad", ()) if job.gpus_per_node else ():
        yield "has a GPU that should not be used: %s." % words
    low, high = fact["between"]
    apart = low - fact["time"] if fact["time"] < low else fact["time"] - high
    if apart > _CLOCK_SECONDS:
        words = "behind" if fact["time"] < low else "ahead of"
        yield "has a clock %.0f s %s the head's. Set it by the network (chronyd, ntpd)." % (apart, words)


def _room(job: Job, fact: Mapping[str, Any]) -> Iterator[str]:
    if fact["probe"] is not None and fact["probe"] != fact["nonce"]:
        yield (
            "does not see what the head has just written into %s: that folder is not shared. Put the workspace's root "
            "on a file system that all nodes mount at the same path, or have the launcher copy files to the nodes."
            % job.run_dir
        )
        return
    if fact["code"] is None:
        yield "has no %s/code, where the script should be." % job.run_dir
    if fact["disk_free"] is not None and fact["disk_free"] < _LEAST_BYTES:
        yield "has %d MB left on the disk of %s. Make room there." % (fact["disk_free"] / 1e6, job.run_dir)
    if fact["shm_size"] is None:
        yield "has no /dev/shm, which data loaders and ranks need. Mount a tmpfs there; in a container use --shm-size."
    elif job.ranks_per_node > 1 and fact["shm_free"] < _LEAST_BYTES:
        yield "has %d MB left in /dev/shm, where ranks meet. Empty it, or make it larger (--shm-size=2g)." % (
            fact["shm_free"] / 1e6
        )


def _differing(names: Sequence[str], facts: Facts) -> List[Tuple[int, str]]:
    """Where a node has another Python, other packages or other code than most."""
    found = _odd(
        facts, lambda f: ".".join(f["python"].get("version", "").split(".")[:2]) or None,
        "has Python %s, where %s has %s. " + _SAME_PYTHON, names,
    )  # fmt: skip
    other_python = {node for node, _ in found}
    for node, most in _odd_ones(facts, lambda f: _relevant(f["python"].get("packages"))):
        if node not in other_python:
            words = _packages_apart(dict(facts[node]["python"]["packages"]), dict(facts[most]["python"]["packages"]))
            found.append((node, "has other packages than %s: %s. %s" % (names[most], words, _SAME_PACKAGES)))
    for node, most in _odd_ones(facts, lambda f: (f["code"] or {}).get("digest")):
        words = _code_apart(facts[node]["code"].get("each"), facts[most]["code"].get("each"))
        found.append((node, "has other code than %s%s. Submit the job again." % (names[most], words)))
    return found


def _relevant(packages: Optional[Mapping[str, str]]) -> Optional[Tuple[Tuple[str, str], ...]]:
    """What has to agree: not the programs that install the others."""
    if packages is None:
        return None
    return tuple(sorted((name, version) for name, version in packages.items() if name not in _INSTALLERS))


def _packages_apart(here: Dict[str, str], there: Dict[str, str]) -> str:
    """ "numpy 1.26 (not 2.0), no torch (2.4.0), einops 0.8 besides"."""
    words = []
    for name in sorted({**here, **there}, key=lambda n: (n not in ("torch", "numpy"), n)):
        if here.get(name) == there.get(name) or name in _INSTALLERS:
            continue
        if name not in here:
            words.append("no %s (%s)" % (name, there[name]))
        elif name not in there:
            words.append("%s %s besides" % (name, here[name]))
        else:
            words.append("%s %s (not %s)" % (name, here[name], there[name]))
    more = len(words) - _NAMED_PACKAGES
    return ", ".join(words[:_NAMED_PACKAGES]) + (" and %d more" % more if more > 0 else "")


def _code_apart(here: Optional[Mapping[str, str]], there: Optional[Mapping[str, str]]) -> str:
    if here is None or there is None:
        return ""
    names = [name for name in sorted({**here, **there}) if here.get(name) != there.get(name)]
    return " (%s)" % ", ".join(names[:_NAMED_PACKAGES])


def _links(names: Sequence[str], facts: Facts) -> Iterator[Tuple[int, str]]:
    """Neighbours of the ring that do not reach each other."""
    for node, fact in enumerate(facts):
        link, following = fact.get("link") or {}, (node + 1) % len(facts)
        where = (following, names[following], facts[following]["address"])
        if fact.get("loopback"):
            yield node, "is known to the others as %s, which is themselves. Correct its /etc/hosts." % fact["address"]
        elif link.get("problem") == "stranger":
            words = "reaches another machine than node %d (%s) at %s. Give every machine an address of its own."
            yield node, words % where
        elif link.get("problem"):
            words = "cannot reach node %d (%s) at %s, port %d: %s. Let the nodes talk to each other on all ports: see "
            words += "their firewalls and routes."
            yield node, words % (*where, link["port"], link["why"])


def _odd_ones(facts: Facts, key: Callable[[Mapping[str, Any]], Any]) -> List[Tuple[int, int]]:
    """(node, a node of the most) for each that has another value than most have; those without one do not count."""
    values = [key(fact) for fact in facts]
    counts: Dict[Any, int] = {}
    for value in values:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    if len(counts) < 2:
        return []
    most = values.index(max(counts, key=lambda value: (counts[value], -values.index(value))))
    return [(node, most) for node, value in enumerate(values) if value is not None and value != values[most]]


def _odd(
    facts: Facts, key: Callable[[Mapping[str, Any]], Any], words: str, names: Sequence[str]
) -> List[Tuple[int, str]]:
    return [(n, words % (key(facts[n]), names[most], key(facts[most]))) for n, most in _odd_ones(facts, key)]

"""Every MPI's mpirun gets its own words: which nodes, how many ranks, how to start its daemons, which interface."""

from __future__ import annotations

import pytest

from trainkit.errors import LaunchError
from trainkit.job import Command, Job, Node
from trainkit_launchers.mpidialects import DIALECTS, command, folder_of, place_of, slots_of
from trainkit_launchers.mpirun import Mpi

JOB = Job("r", "e", "/a run", 3, "/bin/python", script="train.py", nodes=2, ranks_per_node=2)
TWO = Node(0, ("a", "b"), "10.0.0.1", 29500, "ib0", (0, 1))
ONE = Node(0, ("a-0", "a-1"), "127.0.0.1", 29500)
LIBRARIES = {
    "openmpi4": Mpi("openmpi", "Open MPI v4.1.4, package: Debian", "/x/libmpi.so.40", "/x/bin/mpirun"),
    "openmpi5": Mpi("openmpi", "Open MPI v5.0.11, package: a wheel", "/x/libmpi.so.40", "/x/bin/mpirun"),
    "mpich": Mpi("mpich", "MPICH Version: 5.0.2", "/x/libmpi.so.12", "/x/bin/mpirun"),
    "intel": Mpi("intel", "Intel(R) MPI Library 2021.13", "/x/libmpi.so.12", "/x/bin/mpirun"),
}
RANK = ("/bin/python", "-m", "trainkit.boot.rank")
AHEAD = ("/bin/python", "-m", "trainkit.boot.exec", "--in", "attempts/3/bin")
OPEN = ("--oversubscribe", "--bind-to", "none")


def made(kind: str, node: Node = TWO, job: Job = JOB) -> Command:
    return command(job, node, LIBRARIES[kind])


def test_the_library_tells_the_dialect() -> None:
    assert {kind: mpi.dialect for kind, mpi in LIBRARIES.items()} == {kind: kind for kind in DIALECTS}
    assert Mpi("openmpi", "mpirun (Open MPI) 4.1.4", "", "").dialect == "openmpi4"
    assert Mpi("openmpi", "prterun (Open MPI) 5.0.11", "", "").dialect == "openmpi5"


@pytest.mark.parametrize("kind", ["openmpi4", "openmpi5"])
def test_open_mpi_over_two_machines(kind: str) -> None:
    words = ("/x/bin/mpirun", *OPEN, "--map-by", "slot", "-H", "a:2,b:2", "-n", "4")
    assert made(kind).argv == (*AHEAD, *words, *RANK)


@pytest.mark.parametrize("kind", ["mpich", "intel"])
def test_hydra_over_two_machines(kind: str) -> None:
    words = ("-launcher", "ssh", "-launcher-exec", "attempts/3/bin/ssh", "-genvnone", "-hosts", "a:2,b:2")
    assert made(kind).argv == (*AHEAD, "/x/bin/mpirun", *words, "-iface", "ib0", "-n", "4", *RANK)
    assert made(kind).environment["FI_TCP_IFACE"] == "ib0"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "openmpi4",
            {
                "OMPI_MCA_plm_rsh_agent": "attempts/3/bin/ssh",
                "OMPI_MCA_btl_tcp_if_include": "ib0",
                "OMPI_MCA_oob_tcp_if_include": "ib0",
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
            },
        ),
        (
            "openmpi5",
            {
                "PRTE_MCA_plm_ssh_agent": "attempts/3/bin/ssh",
                "OMPI_MCA_btl_tcp_if_include": "ib0",
                "PRTE_MCA_prte_if_include": "ib0",
                "PRTE_ALLOW_RUN_AS_ROOT": "1",
                "PRTE_MCA_prte_tmpdir_base": "/a run/attempts/3/mpi",
            },
        ),
    ],
)
def test_open_mpi_is_told_by_its_environment(kind: str, expected: dict[str, str]) -> None:
    environment = made(kind).environment
    assert expected.items() <= environment.items()
    assert set(environment["TRAINKIT_CARRY"].split(",")) == set(environment)  # so the daemons elsewhere have it too


def test_what_the_job_says_of_the_interface_holds() -> None:
    job = Job("r", "e", "/r", 1, "/bin/python", nodes=2, environment={"OMPI_MCA_btl_tcp_if_include": "eth7"})
    assert made("openmpi5", job=job).environment["OMPI_MCA_btl_tcp_if_include"] == "eth7"


@pytest.mark.parametrize("kind", DIALECTS)
def test_on_one_machine_nobody_is_asked_for_other_nodes(kind: str) -> None:
    words = OPEN if kind.startswith("openmpi") else ()
    one = made(kind, ONE)
    assert one.argv == ("/x/bin/mpirun", *words, "-n", "4", *RANK)
    assert not [name for name in one.environment if "agent" in name or "_if_" in name or "IFACE" in name]


@pytest.mark.parametrize("kind", DIALECTS)
def test_every_rank_knows_which_mpi_started_it(kind: str) -> None:
    assert made(kind).environment["TRAINKIT_MPI"] == LIBRARIES[kind].words
    assert made(kind, ONE).environment["TRAINKIT_MPI"] == LIBRARIES[kind].words


def test_nodes_that_share_a_machine_share_its_slots() -> None:
    node = Node(0, ("a-0", "a-1", "b"), "10.0.0.1", 29500, "eth0", (0, 0, 2))
    assert slots_of(place_of(JOB, node)) == "a-0:4,b:2"


def test_nodes_that_alternate_between_machines_are_refused() -> None:
    node = Node(0, ("a-0", "b", "a-2"), "10.0.0.1", 29500, "eth0", (0, 1, 0))
    with pytest.raises(LaunchError, match=r"alternate between machines \(a-0, b, a-2\). List the nodes of one machine"):
        place_of(JOB, node)


def test_a_job_with_a_boot_zip_uses_that() -> None:
    job = Job("r", "e", "/r", 1, "/bin/python", nodes=2, boot="/r/boot.zip")
    assert made("mpich", job=job).argv[:5] == ("/bin/python", "/r/boot.zip", "exec", "--in", folder_of(job))

"""A private Slurm of one machine, in a folder of its own: munged, slurmctld and a slurmd for each
virtual node, from Debian's packages, without systemd, and generic GPUs without a GPU.

Facts behind the settings (Slurm 22.05): several slurmd run on one host when each has its own port,
spool, pid file and TmpFS (PMIx makes folders there). GPUs must be device nodes, of which /dev/null
is one. A slurmstepd outlives its slurmd. A requeued job starts again once its credential has
expired: 120 s usually, cred_expire here, of which 5 is the least.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

TOOLS = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
EnforcePartLimits=ALL
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=86400
KillWait=3
GresTypes=gpu
"""


class Cluster:
    """`folder`: short (unix sockets), local, not there yet."""

    def __init__(self, folder, nodes, cpus, gpus):
        self.folder = Path(folder)
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.cpus, self.gpus = cpus, gpus
        self.environment = {name: value for name, value in TOOLS.items()
                            if not re.match("(SLURM|SBATCH|PMIX|OMPI)_", name)}
        self.environment["SLURM_CONF"] = str(self.folder / "slurm.conf")

    def start(self):
        for name in ["state", "log", "gpu", *(f"{kind}-{node}" for node in self.nodes
                                              for kind in ("spool", "tmp"))]:
            (self.folder / name).mkdir(parents=True)
        self._configure()
        try:
            for daemon in ("munged", "slurmctld", *self.nodes):
                self.start_daemon(daemon)
            self.wait(lambda: self.states() == ["idle"] * len(self.nodes), "nodes that are idle")
        except BaseException:
            self.stop()
            raise

    def _configure(self):
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        for i in range(self.gpus):
            device = self.folder / f"gpu/fake{i}"
            if os.geteuid() == 0:
                os.mknod(device, 0o20666, os.makedev(1, 3))
            else:
                device.symlink_to(f"/dev/tty{i}")
        (self.folder / "gres.conf").write_text(
            "AutoDetect=off\nNodeName=n[1-{}] Name=gpu File={}/gpu/fake[0-{}]\n".format(
                len(self.nodes), self.folder, self.gpus - 1))
        port, *ports = free_ports(len(self.nodes) + 1)
        host = socket.gethostname().split(".")[0]
        user = subprocess.check_output(["id", "-un"], text=True).strip()
        conf = CONF.format(folder=self.folder, host=host, port=port, user=user)
        for node, own in zip(self.nodes, ports):
            conf += (f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={own} "
                     f"CPUs={self.cpus} RealMemory=500000 Gres=gpu:{self.gpus}\n")
        conf += "PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=60 State=UP\n"
        (self.folder / "slurm.conf").write_text(conf)

    def start_daemon(self, name):
        """munged, slurmctld, or a node's slurmd by the node's name."""
        at = str(self.folder)
        command = {"munged": ["munged", "--force", f"--socket={at}/munge.sock",
                              f"--key-file={at}/munge.key", f"--log-file={at}/log/munged.log",
                              f"--pid-file={at}/munged.pid", f"--seed-file={at}/munged.seed"],
                   "slurmctld": ["slurmctld", "-f", f"{at}/slurm.conf"]}
        with open(self.folder / "log/start.log", "ab") as log:
            subprocess.run(command.get(name, ["slurmd", "-f", f"{at}/slurm.conf", "-N", name]),
                           stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True,
                           timeout=30, env=self.environment)

    def pid(self, daemon):
        """Of slurmctld, munged or a node's slurmd; None when it is not there."""
        name = f"slurmd-{daemon}.pid" if daemon in self.nodes else f"{daemon}.pid"
        try:
            pid = int((self.folder / name).read_text())
        except (OSError, ValueError):
            return None
        return pid if f"{self.folder}/" in command_line(pid) else None

    def stop(self):
        """Ends all of it; returns the processes of jobs that Slurm left behind, and ends them."""
        pids = {daemon: self.pid(daemon) for daemon in [*self.nodes, "slurmctld", "munged"]}
        if pids["slurmctld"] and pids["munged"]:
            jobs = self.run("squeue", "-h", "-o", "%A").stdout.split()
            if jobs:
                self.run("scancel", *jobs)
                self.wait(lambda: not self.run("squeue", "-h").stdout, "an empty queue")
        left = self.processes()
        for daemon, pid in pids.items():
            end(pid, signal.SIGTERM)
        left = {pid: line for pid, line in left.items() if pid not in pids.values() and alive(pid)}
        for pid in left:
            end(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        return left

    def processes(self):
        """Daemons, step managers and jobs of this cluster: they were all given its SLURM_CONF."""
        mark = f"SLURM_CONF={self.folder}/slurm.conf\0".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes() + b"\0" and alive(int(process.name)):
                    found[int(process.name)] = command_line(int(process.name))
            except OSError:
                pass  # ended meanwhile
        return found

    def run(self, *words, **options):
        """A Slurm command, or any other that finds this cluster."""
        options = {"timeout": 60, "env": self.environment, **options}
        return subprocess.run([str(word) for word in words], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, **options)

    def states(self):
        return self.run("sinfo", "-h", "-N", "-o", "%T").stdout.split()

    def job(self, number):
        """What Slurm knows of a job ("7") or of an array's task ("7_2"); {} when it is too busy."""
        text = self.run("scontrol", "show", "job", "-o", number).stdout
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    def wait(self, condition, what, seconds=60):
        end_at = time.monotonic() + seconds
        while not (result := condition()):
            if time.monotonic() > end_at:
                raise AssertionError(f"waited {seconds} s in vain for {what}\n{self.story()}")
            time.sleep(0.1)
        return result

    def wait_job(self, number, *states, seconds=60):
        """Until the job is in one of these states, or without them at its end; returns it."""
        ends = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        return self.wait(lambda: (job := self.job(number)).get("JobState") in ends and job,
                         f"job {number}: {ends}", seconds)

    def story(self):
        """For whoever has to find out why."""
        text = self.run("squeue", "-a").stdout
        for log in sorted((self.folder / "log").glob("*")):
            text += f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-15:]) + "\n"
        return text


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pid):
    return command_line(pid) != ""  # a zombie has none


def end(pid, number, seconds=10):
    """Sends the signal, and KILL to what still lives after a while."""
    if not pid:
        return
    try:
        os.kill(pid, number)
        end_at = time.monotonic() + seconds
        while alive(pid):
            if time.monotonic() > end_at:
                os.kill(pid, signal.SIGKILL)
                end_at += seconds
            time.sleep(0.05)
    except ProcessLookupError:
        pass

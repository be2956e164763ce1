"""Write the list of jars that `pelton kafka start` downloads, with the size and SHA-256 of each.

Run by hand when the Kafka version changes: `python scripts/pin_kafka.py 4.2.2`. The resolver walks Kafka's
own dependency tree; what it finds is trusted once, here, reviewed as a diff, and compared for ever after.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from jgo.maven import Artifact, MavenContext

#: The broker logs through slf4j, and its library names no backend: without this one it would log nothing.
LOG_BACKEND = "org.apache.logging.log4j:log4j-slf4j-impl:{version}"
#: The backend must have the version of the log4j that Kafka brings.
LOG_CORE = "log4j-core"


def main(version: str) -> None:
    with tempfile.TemporaryDirectory() as repository:
        context = MavenContext(repo_cache=Path(repository))
        roots, tree = context.resolver.resolve(
            [context.create_dependency(f"org.apache.kafka:kafka_2.13:{version}")]
        )
        artifacts: list[Artifact] = [dependency.artifact for dependency in [*roots, *tree]]
        log4j = next(artifact.version for artifact in artifacts if artifact.artifactId == LOG_CORE)
        artifacts.append(context.create_dependency(LOG_BACKEND.format(version=log4j)).artifact)
        lines = sorted(line(artifact) for artifact in artifacts)
    target = Path(__file__).parents[1] / "src" / "pelton" / "local" / f"kafka-{version}.pins"
    target.write_text("".join(lines), encoding="utf-8")
    print(f"{target}: {len(lines)} jars")


def line(artifact: Artifact) -> str:
    """`<path in the repository> <size in bytes> <sha256>`, one line."""
    content = Path(artifact.resolve()).read_bytes()
    path = "/".join([*artifact.groupId.split("."), artifact.artifactId, artifact.version, artifact.filename])
    return f"{path} {len(content)} {hashlib.sha256(content).hexdigest()}\n"


if __name__ == "__main__":
    main(sys.argv[1])

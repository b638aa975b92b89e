"""Workers: one is alive as long as its heartbeats are recent."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt


class Worker(Base):
    """One worker process, as it last reported itself."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    hostname: Mapped[str]
    pid: Mapped[int]
    busy_job_id: Mapped[str | None]
    machine: Mapped[dict[str, Any] | None]
    """What it has to work with, a `Machine`; null until it has measured that."""
    started_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[CreatedAt]

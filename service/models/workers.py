"""Workers: their heartbeats are what "alive" means."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt


class Worker(Base):
    """One worker process, as it last reported itself."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    hostname: Mapped[str]
    pid: Mapped[int]
    busy_job_id: Mapped[str | None]
    started_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[CreatedAt]

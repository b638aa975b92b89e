"""Prompt sets: immutable lists of prompts."""

from __future__ import annotations

from sqlalchemy import ForeignKey, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt


class PromptSet(Base):
    """One uploaded file of prompts, stored unchanged."""

    __tablename__ = "prompt_sets"
    __table_args__ = (UniqueConstraint("tenant_id", "name", "format", "sha256"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    format: Mapped[str]
    sha256: Mapped[str]
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    prompts: Mapped[int]
    bytes: Mapped[int]
    created_at: Mapped[CreatedAt]

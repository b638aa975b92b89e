"""Shards of a stage, and messages about them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "shards",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("input_sha256", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("result_sha256", sa.Text(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("last_reason", sa.Text(), nullable=True),
        sa.Column("pending_since", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_worker", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'succeeded')", name=op.f("ck_shards_status")
        ),
        sa.CheckConstraint(
            "(status = 'succeeded') = (result_sha256 IS NOT NULL)",
            name=op.f("ck_shards_status_agrees_with_result"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_shards_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shards")),
        sa.UniqueConstraint(
            "job_id", "stage", "key", "position", name=op.f("uq_shards_job_id_stage_key_position")
        ),
    )
    op.create_index(
        "ix_shards_unfinished",
        "shards",
        ["status"],
        unique=False,
        postgresql_where="status <> 'succeeded'",
    )
    op.add_column("outbox", sa.Column("shard_id", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_outbox_shard_id"), "outbox", "shards", ["shard_id"], ["id"], ondelete="CASCADE"
    )
    op.create_index("ix_outbox_shard_id", "outbox", ["shard_id"], unique=False)


def downgrade() -> None:
    op.execute("DELETE FROM outbox WHERE shard_id IS NOT NULL")
    op.drop_index("ix_outbox_shard_id", table_name="outbox")
    op.drop_constraint(op.f("fk_outbox_shard_id"), "outbox", type_="foreignkey")
    op.drop_column("outbox", "shard_id")
    op.drop_index(
        "ix_shards_unfinished", table_name="shards", postgresql_where="status <> 'succeeded'"
    )
    op.drop_table("shards")

"""Published versions, aliases, what happened to them, and the servers they are on"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "pool_states",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("server_version", sa.Text(), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(
            "status IN ('up', 'down', 'refused')", name=op.f("ck_pool_states_status")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pool_states")),
    )
    op.create_table(
        "model_versions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("max_rank", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("patch_sha256", sa.Text(), nullable=False),
        sa.Column("files", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("canary_sha256", sa.Text(), nullable=True),
        sa.Column("rank", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("override_reason", sa.Text(), nullable=True),
        sa.Column("override_by", sa.Text(), nullable=True),
        sa.Column("target_alias", sa.Text(), nullable=True),
        sa.Column("served_name", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("built_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("live_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_worker", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('adapter', 'checkpoint')", name=op.f("ck_model_versions_kind")
        ),
        sa.CheckConstraint(
            "status <> 'live' OR served_name IS NOT NULL",
            name=op.f("ck_model_versions_live_has_served_name"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'building', 'built', 'live', 'unavailable', 'failed', 'retired')",
            name=op.f("ck_model_versions_status"),
        ),
        sa.CheckConstraint(
            "verdict = 'passed' OR override_reason IS NOT NULL",
            name=op.f("ck_model_versions_override_is_recorded"),
        ),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_keys.id"], name=op.f("fk_model_versions_api_key_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_model_versions_job_id")),
        sa.ForeignKeyConstraint(
            ["override_by"], ["api_keys.id"], name=op.f("fk_model_versions_override_by")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_model_versions_tenant_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("number", name=op.f("uq_model_versions_number")),
        sa.UniqueConstraint("tenant_id", "id", name=op.f("uq_model_versions_tenant_id_id")),
    )
    op.create_index(
        "ix_model_versions_pool_status", "model_versions", ["pool", "status"], unique=False
    )
    op.create_index(
        "ix_model_versions_tenant_number", "model_versions", ["tenant_id", "number"], unique=False
    )
    op.create_index(
        "uq_model_versions_open_job",
        "model_versions",
        ["job_id"],
        unique=True,
        postgresql_where="status NOT IN ('failed', 'retired')",
    )
    op.create_table(
        "aliases",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("previous_version_id", sa.Text(), nullable=True),
        sa.Column("split_version_id", sa.Text(), nullable=True),
        sa.Column("split_percent", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(
            "(split_version_id IS NULL) = (split_percent IS NULL)",
            name=op.f("ck_aliases_split_is_whole"),
        ),
        sa.CheckConstraint("split_percent BETWEEN 1 AND 99", name=op.f("ck_aliases_split_percent")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "previous_version_id"],
            ["model_versions.tenant_id", "model_versions.id"],
            name=op.f("fk_aliases_tenant_id_previous_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "split_version_id"],
            ["model_versions.tenant_id", "model_versions.id"],
            name=op.f("fk_aliases_tenant_id_split_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "version_id"],
            ["model_versions.tenant_id", "model_versions.id"],
            name=op.f("fk_aliases_tenant_id_version_id"),
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_aliases_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "name", name=op.f("pk_aliases")),
    )
    op.create_table(
        "serving_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=True),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("from_version_id", sa.Text(), nullable=True),
        sa.Column("to_version_id", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_serving_events_key_id")),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_serving_events_tenant_id")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_serving_events_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_serving_events")),
    )
    op.create_index(
        "ix_serving_events_alias", "serving_events", ["tenant_id", "alias", "id"], unique=False
    )
    op.create_index(
        "ix_serving_events_version_id", "serving_events", ["version_id", "id"], unique=False
    )
    op.add_column("jobs", sa.Column("publish_to", sa.Text(), nullable=True))
    op.create_index(
        "ix_jobs_publish_to",
        "jobs",
        ["id"],
        unique=False,
        postgresql_where="publish_to IS NOT NULL",
    )
    op.add_column("idempotency_keys", sa.Column("version_id", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_idempotency_keys_version_id"),
        "idempotency_keys",
        "model_versions",
        ["version_id"],
        ["id"],
        initially="DEFERRED",
        deferrable=True,
    )
    op.add_column("outbox", sa.Column("version_id", sa.Text(), nullable=True))
    op.create_index("ix_outbox_version_id", "outbox", ["version_id"], unique=False)
    op.create_foreign_key(
        op.f("fk_outbox_version_id"), "outbox", "model_versions", ["version_id"], ["id"]
    )


def downgrade() -> None:
    op.execute("DELETE FROM outbox WHERE version_id IS NOT NULL")
    op.execute("DELETE FROM idempotency_keys WHERE version_id IS NOT NULL")
    op.drop_constraint(op.f("fk_outbox_version_id"), "outbox", type_="foreignkey")
    op.drop_index("ix_outbox_version_id", table_name="outbox")
    op.drop_column("outbox", "version_id")
    op.drop_constraint(
        op.f("fk_idempotency_keys_version_id"), "idempotency_keys", type_="foreignkey"
    )
    op.drop_column("idempotency_keys", "version_id")
    op.drop_index(
        "ix_jobs_publish_to", table_name="jobs", postgresql_where="publish_to IS NOT NULL"
    )
    op.drop_column("jobs", "publish_to")
    op.drop_index("ix_serving_events_version_id", table_name="serving_events")
    op.drop_index("ix_serving_events_alias", table_name="serving_events")
    op.drop_table("serving_events")
    op.drop_table("aliases")
    op.drop_index(
        "uq_model_versions_open_job",
        table_name="model_versions",
        postgresql_where="status NOT IN ('failed', 'retired')",
    )
    op.drop_index("ix_model_versions_tenant_number", table_name="model_versions")
    op.drop_index("ix_model_versions_pool_status", table_name="model_versions")
    op.drop_table("model_versions")
    op.drop_table("pool_states")

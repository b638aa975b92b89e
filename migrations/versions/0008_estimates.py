"""What workers have to work with, and what jobs take of it; null until it is known"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    for table, column in (("workers", "machine"), ("jobs", "estimate")):
        kind = postgresql.JSONB(astext_type=sa.Text())
        op.add_column(table, sa.Column(column, kind, nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "estimate")
    op.drop_column("workers", "machine")

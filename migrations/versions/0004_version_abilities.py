"""What a version's job found out about abilities; null for versions of before"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    abilities = sa.Column("abilities", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    op.add_column("model_versions", abilities)


def downgrade() -> None:
    op.drop_column("model_versions", "abilities")

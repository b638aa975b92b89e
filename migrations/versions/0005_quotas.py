"""What a tenant may keep where it differs from the settings; null for the settings' own"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    quotas = sa.Column("quotas", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    op.add_column("tenants", quotas)


def downgrade() -> None:
    op.drop_column("tenants", "quotas")

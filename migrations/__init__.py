"""Database migrations, run by `service.database.upgrade_to_head`."""

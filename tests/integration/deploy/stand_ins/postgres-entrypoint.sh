#!/bin/sh
# The official entry point's way: a new cluster gets its user, password and database from the
# environment, and asks for the password from everywhere else.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    chown postgres:postgres "$PGDATA"
    printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
    chmod 644 /tmp/password
    setpriv --reuid postgres --regid postgres --clear-groups initdb -D "$PGDATA" -U "$POSTGRES_USER" \
        --encoding UTF8 --locale C.UTF-8 --pwfile /tmp/password --auth-local trust --auth-host scram-sha-256
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" |
        setpriv --reuid postgres --regid postgres --clear-groups \
            postgres --single -D "$PGDATA" postgres >/dev/null
fi
exec setpriv --reuid postgres --regid postgres --clear-groups \
    postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql

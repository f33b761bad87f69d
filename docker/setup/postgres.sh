#!/bin/bash
# Run once by the image of Postgres: the lab's databases, each with its tables.
set -eu
for database in userdb eventdb registrationdb auditdb; do
    psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -c "CREATE DATABASE $database"
    psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$database" -f "/lab/$database.sql"
done

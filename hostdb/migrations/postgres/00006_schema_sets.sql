-- +goose Up
-- The migrations that a tenant's database has. The highest number isn't enough, because one that was merged
-- late has a lower number.
CREATE TABLE sys_schema_sets (
    id         text COLLATE "C" NOT NULL,
    versions   text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sys_schema_sets__id PRIMARY KEY (id),
    CONSTRAINT sys_schema_sets__id__check CHECK (id ~ '^[0-9a-f]{32}$')
);

ALTER TABLE core_tenants
    ADD COLUMN schema_set text COLLATE "C",
    ADD CONSTRAINT core_tenants__schema_set__check CHECK (schema_set ~ '^[0-9a-f]{32}$');

-- +goose Up
-- The migrations that a tenant's database has. The highest number isn't enough, because one that was merged
-- late has a lower number.
CREATE TABLE sys_schema_sets (
    id         text NOT NULL,
    versions   text NOT NULL,
    created_at text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    CONSTRAINT sys_schema_sets__id PRIMARY KEY (id),
    CONSTRAINT sys_schema_sets__id__check CHECK (instr(id, char(0)) = 0 AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*')
) STRICT;

ALTER TABLE core_tenants ADD COLUMN schema_set text
    CONSTRAINT core_tenants__schema_set__check
        CHECK (instr(schema_set, char(0)) = 0 AND length(schema_set) = 32 AND schema_set NOT GLOB '*[^0-9a-f]*');

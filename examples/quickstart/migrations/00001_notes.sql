-- +goose Up
CREATE TABLE notes (author TEXT NOT NULL, body TEXT NOT NULL);

-- +goose Down
DROP TABLE notes;

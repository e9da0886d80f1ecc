-- +goose Up
CREATE TABLE notes (body TEXT NOT NULL);

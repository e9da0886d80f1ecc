package main

import (
	"io"
	"testing"
)

// TestEveryScenarioRunsAtTinySize keeps the program from rotting: what it measures at this size means nothing.
func TestEveryScenarioRunsAtTinySize(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			if err := runOne(&Bench{ctx: t.Context(), scale: tiny}, s, io.Discard); err != nil {
				t.Error(err)
			}
		})
	}
}

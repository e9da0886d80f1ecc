package keyedpool

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// minimal is a configuration with what is required only.
func minimal() Config[string, int] {
	return Config[string, int]{
		Dial:   func(context.Context, string, string) (int, error) { return 0, nil },
		Close:  func(context.Context, int) error { return nil },
		Server: func(string, string) (string, error) { return "s", nil },
	}
}

func TestConfig_refusesWhatMakesNoSense(t *testing.T) {
	for want, spoil := range map[string]func(*Config[string, int]){
		"needs Dial":        func(c *Config[string, int]) { c.Dial = nil },
		"needs Dial, Close": func(c *Config[string, int]) { c.Close = nil },
		"and Server":        func(c *Config[string, int]) { c.Server = nil },
		"Budget ":           func(c *Config[string, int]) { c.Budget = -1 },
		"gives db1 no":      func(c *Config[string, int]) { c.Budgets = map[string]int{"db1": 0} },
		"TenantCap":         func(c *Config[string, int]) { c.TenantCap = -1 },
		"DialSlots":         func(c *Config[string, int]) { c.DialSlots = -1 },
		"Turn":              func(c *Config[string, int]) { c.Turn = -1 },
		"BreakerThreshold":  func(c *Config[string, int]) { c.BreakerThreshold = -1 },
		"AcquireTimeout":    func(c *Config[string, int]) { c.AcquireTimeout = -1 },
		"StealAfter":        func(c *Config[string, int]) { c.StealAfter = -1 },
		"NestedAfter":       func(c *Config[string, int]) { c.NestedAfter = -1 },
		"DialTimeout":       func(c *Config[string, int]) { c.DialTimeout = -1 },
		"DrainTimeout":      func(c *Config[string, int]) { c.DrainTimeout = -1 },
		"IdleTimeout":       func(c *Config[string, int]) { c.IdleTimeout = -1 },
		"MaxLifetime":       func(c *Config[string, int]) { c.MaxLifetime = -1 },
		"BackoffMin":        func(c *Config[string, int]) { c.BackoffMin = -1 },
		"BackoffMax":        func(c *Config[string, int]) { c.BackoffMax = -1 },
		"ServerRetry":       func(c *Config[string, int]) { c.ServerRetry = -1 },
	} {
		cfg := minimal()
		spoil(&cfg)
		if pool, err := New(cfg); err == nil || pool != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error about %q", err, want)
		}
	}
}

func TestConfig_defaultsAreThoseDocumented(t *testing.T) {
	cfg, err := minimal().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{
		"Budget":           cfg.Budget == 20,
		"DialSlots":        cfg.DialSlots == 8,
		"Turn":             cfg.Turn == 8,
		"BreakerThreshold": cfg.BreakerThreshold == 5,
		"AcquireTimeout":   cfg.AcquireTimeout == 5*time.Second,
		"StealAfter":       cfg.StealAfter == 50*time.Millisecond,
		"NestedAfter":      cfg.NestedAfter == time.Second,
		"DialTimeout":      cfg.DialTimeout == 5*time.Second,
		"DrainTimeout":     cfg.DrainTimeout == 2*time.Second,
		"IdleTimeout":      cfg.IdleTimeout == 5*time.Minute,
		"MaxLifetime":      cfg.MaxLifetime == time.Hour,
		"BackoffMin":       cfg.BackoffMin == 100*time.Millisecond,
		"BackoffMax":       cfg.BackoffMax == 4*time.Second,
		"ServerRetry":      cfg.ServerRetry == time.Second,
		"Classify":         cfg.Classify(errors.New("any")) == ServerFault,
	} {
		if !ok {
			t.Errorf("%s is not what its comment says", name)
		}
	}
}

func TestConfig_sharesOfABudget(t *testing.T) {
	for _, c := range []struct {
		budget, tenantCap, reserve int // configured
		cap, kept                  int // wanted
	}{
		{1, 0, 0, 1, 0}, {2, 0, 0, 2, 0}, {8, 0, 0, 2, 1}, {20, 0, 0, 5, 2}, {80, 0, 0, 20, 10},
		{4, 9, 9, 4, 3}, {4, 1, -1, 1, 0}, {1, 0, 1, 1, 0}, {10, 3, 2, 3, 2},
	} {
		cfg := minimal()
		cfg.TenantCap, cfg.Reserve = c.tenantCap, c.reserve
		if got, kept := cfg.tenantCap(c.budget), cfg.reserve(c.budget); got != c.cap || kept != c.kept {
			t.Errorf("%+v: cap %d, reserve %d", c, got, kept)
		}
	}
	cfg := minimal()
	cfg.Budget, cfg.Budgets = 5, map[string]int{"big": 50}
	if cfg.budget("big") != 50 || cfg.budget("other") != 5 {
		t.Errorf("budgets %d and %d", cfg.budget("big"), cfg.budget("other"))
	}
}

func TestConfig_jitterLeavesTimeForTheSweep(t *testing.T) {
	for _, limit := range []time.Duration{60 * time.Millisecond, time.Second, 5 * time.Minute, time.Hour} {
		cfg := minimal()
		cfg.IdleTimeout, cfg.MaxLifetime = limit, limit
		for range 1000 {
			if d := shorten(limit); d < limit*8/10 || d+cfg.sweepInterval() > limit {
				t.Fatalf("limit %v, jittered %v, swept every %v", limit, d, cfg.sweepInterval())
			}
		}
	}
}

func TestBackoff_growsWithoutOverflow(t *testing.T) {
	var b backoff
	for i := range 200 {
		now := b.until
		b.fail(now, time.Second, time.Hour, errTenantBroken)
		pause := b.until - now
		want := min(time.Second<<min(i, 20), time.Hour)
		if pause < want/2 || pause > want || !b.pausing(b.until-1) || b.pausing(b.until) {
			t.Fatalf("failure %d: pause %v, want %v to %v", i+1, pause, want/2, want)
		}
	}
}

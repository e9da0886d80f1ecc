package hook_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantdb/tenantdb/internal/hook"
)

func TestCall_returnsWhatTheHookDid(t *testing.T) {
	for want, do := range map[string]func() error{
		"":                           func() error { return nil },
		"Config.X: no":               func() error { return errors.New("no") },
		"Config.X: it panicked: no":  func() error { panic("no") },
		"Config.X: it ended its":     func() error { runtime.Goexit(); return nil },
		"Config.X: context canceled": func() error { return context.Canceled },
	} {
		err := hook.Call(t.Context(), "Config.X", do, func() { t.Error("it was late") })
		switch {
		case want == "" && err == nil:
		case want == "" || err == nil || !strings.HasPrefix(err.Error(), want) || hook.WasLeft(err) ||
			errors.Is(err, context.Canceled):
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestCall_leavesAHookThatDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		returns, late := make(chan struct{}), false
		began := time.Now()
		err := hook.Call(ctx, "Config.X", func() error { <-returns; return nil }, func() { late = true })
		if !hook.WasLeft(err) || !strings.Contains(err.Error(), "in time") ||
			time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		synctest.Wait()
		if late {
			t.Error("it counts as returned")
		}
		close(returns)
		synctest.Wait()
		if !late {
			t.Error("its return wasn't noticed")
		}
	})
}

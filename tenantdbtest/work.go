package tenantdbtest

import (
	"bytes"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"
)

// The names of the profiler labels of goroutines whose end is awaited. A goroutine inherits the labels of the
// one that starts it.
const (
	kitLabel  = "tenantdbtest-kit"
	workLabel = "tenantdbtest-work"
)

// workTimeout is how long goroutines may take to end.
const workTimeout = 2 * time.Second

// awaitWork waits until the program's goroutines with a label's value have ended, for workTimeout at most. It
// returns the stacks of those that are left.
func awaitWork(label string) (left []string) {
	deadline := time.Now().Add(workTimeout)
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for left = labelled(label); len(left) > 0 && time.Now().Before(deadline); left = labelled(label) {
		<-pause.C
	}
	return left
}

// labelled returns the stacks of the program's goroutines with a label.
func labelled(label string) (stacks []string) {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return nil
	}
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, `":"`+label+`"`) && !isLibrarys(stack) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// frame matches a line of a stack in a goroutine profile, and finds its function.
var frame = regexp.MustCompile(`(?m)^#\t0x[0-9a-f]+\t(\S+)\+0x`)

// libraries begin the names of functions whose goroutines end with the kit, or with the process.
var libraries = []string{"github.com/tenantdb/tenantdb.", "github.com/tenantdb/tenantdb/", "database/sql.",
	"github.com/jackc/", "net/http.", "net/http/", "testing."}

// isLibrarys reports whether a library started the goroutine, as the outermost function tells.
func isLibrarys(stack string) bool {
	return isLibraryFunction(outermost(stack))
}

// isLibraryFunction reports whether a function is of one of the libraries.
func isLibraryFunction(name string) bool {
	for _, library := range libraries {
		// A test package of this module is a program.
		if strings.HasPrefix(name, library) && !strings.Contains(name, "_test.") {
			return true
		}
	}
	return false
}

// outermost returns the name of the function that a goroutine began with, as a profile shows it. It is "" if
// the goroutine has just begun.
func outermost(stack string) string {
	frames := frame.FindAllStringSubmatch(stack, -1)
	for i := len(frames) - 1; i >= 0; i-- {
		if name := frames[i][1]; !strings.HasPrefix(name, "runtime.") && !strings.HasPrefix(name, "sync.") {
			return name
		}
	}
	return ""
}

// startOf returns who started a goroutine that began with a function, and the line. It returns "" if there is
// no such goroutine any more.
func startOf(function string) string {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	for goroutine := range strings.SplitSeq(string(all), "\n\n") {
		if !strings.Contains(goroutine, "\n"+function+"(") {
			continue
		}
		if _, start, found := strings.Cut(goroutine, "\ncreated by "); found {
			start, _, _ = strings.Cut(strings.ReplaceAll(start, "\n\t", " at "), " +0x")
			return start
		}
	}
	return ""
}

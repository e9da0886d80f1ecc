package tenantdbtest

import (
	"bytes"
	"regexp"
	"runtime/pprof"
	"strings"
	"time"
)

// workLabel is the name of the profiler label of goroutines whose end is awaited. A goroutine inherits the
// labels of the one that starts it.
const workLabel = "tenantdbtest"

// workTimeout is how long goroutines may take to end.
const workTimeout = 2 * time.Second

// awaitWork waits until the program's goroutines with a label have ended, for workTimeout at most. It returns
// the stacks of those that are left.
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
		if strings.Contains(stack, `"`+workLabel+`":"`+label+`"`) && !isLibrarys(stack) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// frame matches a line of a stack in a goroutine profile, and finds its function.
var frame = regexp.MustCompile(`(?m)^#\t0x[0-9a-f]+\t(\S+)\+0x`)

// libraries begin the names of functions whose goroutines end with the kit, or with the process.
var libraries = []string{"github.com/tenantdb/tenantdb.", "github.com/tenantdb/tenantdb/", "database/sql.",
	"github.com/jackc/", "net/http.", "testing."}

// isLibrarys reports whether a library started the goroutine, as the outermost function tells.
func isLibrarys(stack string) bool {
	frames := frame.FindAllStringSubmatch(stack, -1)
	for len(frames) > 0 {
		function := frames[len(frames)-1][1]
		frames = frames[:len(frames)-1]
		if strings.HasPrefix(function, "runtime.") || strings.HasPrefix(function, "sync.") {
			continue
		}
		for _, library := range libraries {
			// A test package of this module is a program.
			if strings.HasPrefix(function, library) && !strings.Contains(function, "_test.") {
				return true
			}
		}
		return false
	}
	return true // it has just begun, or ended
}

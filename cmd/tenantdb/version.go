package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version returns what --version prints: the versions of the module and of Go, and the platform.
func version() string {
	info, _ := debug.ReadBuildInfo()
	return fmt.Sprintf("tenantdb %s %s %s/%s", versionOf(info), runtime.Version(),
		runtime.GOOS, runtime.GOARCH)
}

// versionOf returns the module's version that go install or go build recorded, or (devel), as Go calls it, if
// there is none.
func versionOf(info *debug.BuildInfo) string {
	if info == nil || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

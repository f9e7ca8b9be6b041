package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

type versionCmd struct{}

func (*versionCmd) Run(e *env) error {
	fmt.Fprintf(e.out, "holdfast %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if on := mutant.Active(); len(on) > 0 {
		fmt.Fprintln(e.out, "with protections switched off:", strings.Join(on, " "))
	}
	return nil
}

// version is what the build knows of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "dev"
	}
	return info.Main.Version
}

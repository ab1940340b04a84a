package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker for releases.
var version string

// fullVersion is the release, or what the source was that this was built from.
func fullVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := "dev"
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v += "-" + s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				v += "+changes"
			}
		}
	}
	return v
}

// beamVersion is the Beam whose model this was built with.
func beamVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/apache/beam/sdks/v2" {
				return d.Version
			}
		}
	}
	return "unknown"
}

func versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(c, map[string]string{"version": fullVersion(), "beam": beamVersion(), "go": runtime.Version()})
			}
			fmt.Fprintf(c.OutOrStdout(), "trestle %s (Beam %s, %s)\n", fullVersion(), beamVersion(), runtime.Version())
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

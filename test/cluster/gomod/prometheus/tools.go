//go:build tools

// Package tools pins the programs that tests of the chart's rules and dashboards build; it is never compiled itself.
package tools

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)

//go:build tools

// Package tools pins the programs of KEDA that a test of autoscalers builds; it is never compiled itself.
package tools

import (
	_ "github.com/kedacore/keda/v2/cmd/adapter"
	_ "github.com/kedacore/keda/v2/cmd/operator"
)

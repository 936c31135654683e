//go:build tools

// Package tools pins the manager of LeaderWorkerSet, which the scale test compares with; it is never compiled itself.
package tools

import _ "sigs.k8s.io/lws/cmd"

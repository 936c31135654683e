//go:build tools

// Package tools pins the programs that the local cluster builds; it is never compiled itself.
package tools

import (
	_ "github.com/nats-io/nats-server/v2"
)

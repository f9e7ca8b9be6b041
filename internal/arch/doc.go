// Package arch holds no code: its tests keep the shape that docs/architecture.md draws.
package arch

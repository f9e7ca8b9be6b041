//go:build mutant_store

package mutant

const StoreCheckOff = true

//go:build !mutant_store

package mutant

// StoreCheckOff lets the permits in the store exceed the stock.
const StoreCheckOff = false

package main

import (
	"fmt"
	"net"

	"github.com/holdfast-dev/holdfast/replica"
)

// sentinelFlags are what a node tells clients that ask Redis Sentinel.
type sentinelFlags struct {
	Sentinel          string `help:"Address for clients that ask Redis Sentinel where the master is; otherwise nobody is answered." env:"HOLDFAST_NODE_SENTINEL"`
	SentinelAdvertise string `help:"Sentinel's address, as others reach it; otherwise --sentinel." env:"HOLDFAST_NODE_SENTINEL_ADVERTISE"`
	SentinelName      string `help:"The master's name for such clients." default:"holdfast" env:"HOLDFAST_NODE_SENTINEL_NAME"`
}

func (f *sentinelFlags) listen(cfg *replica.Config) (err error) {
	cfg.AdvertiseSentinel, cfg.SentinelName = f.SentinelAdvertise, f.SentinelName
	if f.Sentinel != "" {
		if cfg.Sentinel, err = net.Listen("tcp", f.Sentinel); err != nil {
			return fmt.Errorf("--sentinel: %w", err)
		}
	}
	return nil
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/goccy/go-yaml"

	"github.com/holdfast-dev/holdfast/server"
)

// config is the file that serve reads.
type config struct {
	Keys []server.Key `yaml:"keys"`
}

const maxConfig = 1 << 20

func readConfig(path string) (c config, err error) {
	if path == "" {
		return c, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	return parseConfig(path, text)
}

// parseConfig refuses what it does not know: a mistyped name must not pass as a default.
func parseConfig(path string, text []byte) (c config, err error) {
	err = yaml.NewDecoder(bytes.NewReader(text), yaml.DisallowUnknownField()).Decode(&c)
	if err != nil && !errors.Is(err, io.EOF) {
		return config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

//go:build !linux

package drill

import (
	"context"
	"errors"
)

var errNoDisk = errors.New("drill: the fault full-disk needs Linux")

func (p *plan) apart(context.Context) (Report, error) { return Report{}, errNoDisk }

func ownDisk(string, string) error { return errNoDisk }

func fillDisk(context.Context, string) (bool, error) { return false, errNoDisk }

func leaveDisk(string) error { return errNoDisk }

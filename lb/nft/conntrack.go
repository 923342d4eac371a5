package nft

import (
	"time"

	"shoal/lb"
)

func (p *Plane) forgetFlows(changes plan) error { return nil }

func (p *Plane) drain(dirty map[lb.Key]bool, now time.Time) {}

func (p *Plane) next(now time.Time) time.Duration { return p.failing.Next(now) }

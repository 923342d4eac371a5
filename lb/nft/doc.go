// Package nft is a data plane by nftables.
package nft

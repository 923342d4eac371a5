package sysctl

// Loosen lets packets in by a device that their answers would not leave by, as
// those of the mesh's clients do: they come from a sandbox or from another host,
// not from where the client is. The kernel takes the stricter of the device's
// setting and that for all (ip-sysctl.rst, rp_filter); 2 wins over 1, and 0 asks
// nothing.
func (k *Keeper) Loosen(device string) error {
	name := IPv4(device, "rp_filter")
	own, err := k.get(name)
	if err != nil {
		return err
	}
	all, err := k.get(IPv4("all", "rp_filter"))
	if err != nil {
		return err
	}
	if max(own, all) != "1" {
		return nil
	}
	return k.Set(name, "2")
}

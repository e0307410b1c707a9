"""Where the deny-set comes from: sources, what feeds them into the gateway, and the snapshot on disk.

For embedders: :class:`aigw_anyio.deny.control.DenySource` is what to implement, and
:class:`aigw_anyio.deny.keeper.DenyKeeper` runs it.
"""

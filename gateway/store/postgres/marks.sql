-- Version 2. The key that each gateway encrypts with, so that none is left with an old one when values are encrypted anew.
ALTER TABLE gateways ADD COLUMN mark TEXT;  -- NULL: of a gateway of version 1, which does not tell
